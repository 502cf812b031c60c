"""Stable-baselines3's side of `maze`, in its own process: it needs only that and NumPy.

    PYTHON torch_maze.py LEVELS ITERATIONS

LEVELS is a .npz with `starts`, `objects` and `worth` of the levels. Prints a JSON line of what
ITERATIONS of PPO take, after one that is not counted, and the mean return of the last episodes.
"""

import json
import sys
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

COPIES, STEPS, LIMIT, SIZE = 128, 32, 200, 9
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))


class Maze(gymnasium.Env):
    """The mazes of `experiments.rl.environments.maze`, one episode after the other."""

    def __init__(self, levels: dict[str, np.ndarray]):
        self.starts = levels["starts"].tolist()
        self.where = [
            {tuple(cell): n for n, cell in enumerate(one)} for one in levels["objects"].tolist()
        ]
        self.worth = levels["worth"].tolist()
        self.boards = np.zeros((len(self.starts), 6, SIZE, SIZE), np.float32)
        for board, start, objects in zip(self.boards, self.starts, levels["objects"], strict=True):
            board[5][tuple(start)] = 1
            for channel, cell in zip(board, objects, strict=False):
                channel[tuple(cell)] = 1
        self.observation_space = gymnasium.spaces.Box(0, 1, (6 * SIZE * SIZE,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.level = int(self.np_random.integers(len(self.starts)))
        self.row, self.column = self.starts[self.level]
        self.board, self.age = self.boards[self.level].copy(), 0
        self.here = [True] * 5
        return self.board.ravel(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        down, right = MOVES[action]
        row, column = self.row + down, self.column + right
        self.age += 1
        reward = 0.0
        if 0 <= row < SIZE and 0 <= column < SIZE:
            self.board[5, self.row, self.column] = 0
            self.board[5, row, column] = 1
            self.row, self.column = row, column
        else:
            reward = -0.01
        met = self.where[self.level].get((self.row, self.column), -1)
        if met >= 0 and self.here[met]:
            self.here[met] = False
            self.board[met, self.row, self.column] = 0
            reward += self.worth[self.level][met]
            if met == 0:
                return self.board.ravel(), reward, True, False, {}
        late = self.age >= LIMIT
        return self.board.ravel(), reward - late, late, False, {}


class Trunk(BaseFeaturesExtractor):
    """Two hidden layers, shared by policy and value."""

    def __init__(self, space: Any):
        super().__init__(space, 128)
        layers = [torch.nn.Linear(486, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128)]
        self.net = torch.nn.Sequential(*layers, torch.nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Clock(BaseCallback):
    """Starts after the first iteration."""

    start: tuple[float, float] | None = None

    def _on_rollout_start(self) -> None:
        if self.start is None and self.num_timesteps > 0:
            self.start = time.perf_counter(), time.process_time()

    def _on_step(self) -> bool:
        return True


class Monitored(DummyVecEnv):
    """Keeps the rewards of episodes."""

    def reset(self) -> Any:
        self.total, self.ended = np.zeros(self.num_envs), []
        return super().reset()

    def step_wait(self) -> Any:
        observation, reward, done, info = super().step_wait()
        self.total += reward
        self.ended += self.total[done].tolist()
        self.total[done] = 0
        return observation, reward, done, info


def main(path: str, iterations: int) -> None:
    levels = dict(np.load(path))
    environment = Monitored([lambda: Maze(levels)] * COPIES)
    policy = {"features_extractor_class": Trunk, "net_arch": []}
    agent = PPO(
        "MlpPolicy", environment, n_steps=STEPS, batch_size=1024, n_epochs=2, learning_rate=5e-4,
        gamma=0.99, gae_lambda=0.95, clip_range=0.2, ent_coef=0.03, vf_coef=0.5,
        max_grad_norm=0.5, policy_kwargs=policy, device="cpu", seed=0,
    )  # fmt: skip
    clock = Clock()
    agent.learn((iterations + 1) * COPIES * STEPS, callback=clock)
    taken = time.perf_counter() - clock.start[0], time.process_time() - clock.start[1]
    score = float(np.mean(environment.ended[-1000:]))
    print(json.dumps({"clock [s]": taken[0], "processor [s]": taken[1], "return": score}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
