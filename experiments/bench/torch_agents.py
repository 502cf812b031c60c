"""The authors' side of `agents`, in its own process: it needs only torch and gymnasium.

    PYTHON torch_agents.py FOLDER [options of the authors' main.py]

Runs main.py of the checkout in FOLDER, in the current folder, on gymnasium instead of gym; its
learning curve is written to results/.
"""

import runpy
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium


class Old:
    """An environment of gymnasium as gym 0.21 had them."""

    def __init__(self, name: str):
        self._made, self._seed = gymnasium.make(name), None
        self.observation_space, self.action_space = (
            self._made.observation_space,
            self._made.action_space,
        )
        self._max_episode_steps = self._made.spec.max_episode_steps

    def seed(self, seed: int) -> None:
        self._seed = seed
        self.action_space.seed(seed)

    def reset(self) -> Any:
        observation, _ = self._made.reset(seed=self._seed)
        self._seed = None
        return observation

    def step(self, action: Any) -> tuple[Any, float, bool, dict]:
        observation, reward, ended, cut, more = self._made.step(action)
        return observation, float(reward), ended or cut, more


def main(folder: Path) -> None:
    stand_in: Any = types.ModuleType("gym")
    stand_in.make = Old
    sys.modules["gym"] = stand_in
    sys.path.insert(0, str(folder))
    sys.argv = [str(folder / "main.py"), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
