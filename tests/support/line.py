"""An environment that needs no package."""

from types import SimpleNamespace

import numpy as np


class Line:
    """A point on a line: reward for being at 0, lost beyond 1, over after 20 steps."""

    observation_space = action_space = SimpleNamespace(
        shape=(1,), low=np.array([-2.0]), high=np.array([2.0])
    )
    reward = 1.0

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict]:
        self.random = np.random.default_rng(seed) if seed is not None else self.random
        self.place, self.steps = self.random.uniform(-0.5, 0.5), 0
        return np.array([self.place]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert action.dtype == np.float32 and abs(action[0]) <= 2
        self.place, self.steps = self.place + 0.1 * float(action[0]), self.steps + 1
        reward = self.reward - abs(self.place)
        return np.array([self.place]), reward, abs(self.place) > 1, self.steps == 20, {}
