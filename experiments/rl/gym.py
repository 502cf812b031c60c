"""Environments of gymnasium, stepped with a NumPy copy of the actor.

Actions are in [-1, 1] for every environment; here they are scaled to what it takes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.rl.networks import Layers, act

EXTRAS = {"ALE": "atari"}
"""Which extra of the project installs a namespace of environments; else it is `rl`."""


def make(name: str, **options: Any) -> Any:
    """An environment of gymnasium with continuous observations and actions, and its options.

    Raises:
      ImportError: it is not installed.
      ValueError: there is no such environment, or it has other observations or actions.
    """
    extra = EXTRAS.get(name.partition("/")[0], "rl")
    install = f"{name} is not installed: pip install 'jsparse[{extra}]'"
    try:
        import gymnasium
        from gymnasium.error import DependencyNotInstalled, Error

        if extra == "atari":
            import ale_py

            gymnasium.register_envs(ale_py)
    except ImportError as error:
        raise ImportError(install) from error
    try:
        made = gymnasium.make(name, **options)
    except (DependencyNotInstalled, ImportError) as error:
        raise ImportError(install) from error
    except Error as error:
        raise ValueError(f"gymnasium has no {name}: {error}") from error
    spaces = made.observation_space, made.action_space
    if not all(isinstance(s, gymnasium.spaces.Box) and len(s.shape) == 1 for s in spaces):
        raise ValueError(
            f"{name} has observations {spaces[0]} and actions {spaces[1]}; choose one where both "
            "are vectors, such as HalfCheetah-v5"
        )
    return made


def sizes(environment: Any) -> tuple[int, int]:
    """Numbers in an observation and in an action."""
    return environment.observation_space.shape[0], environment.action_space.shape[0]


class Transition(NamedTuple):
    """A step, in the order of `Batch`, and the reward so far where an episode ends, else nan."""

    observation: np.ndarray
    action: np.ndarray
    reward: float
    following: np.ndarray
    going: float
    total: float


class Walk:
    """Steps an environment, episode after episode; the seed is of its starts and of the noise."""

    def __init__(self, environment: Any, seed: int):
        self.environment = environment
        self.random = np.random.default_rng((seed, 1))  # gymnasium draws from default_rng(seed)
        space = environment.action_space
        self._middle, self._half = (space.high + space.low) / 2, (space.high - space.low) / 2
        self._observation, _ = environment.reset(seed=seed)
        self._total = 0.0

    def steps(self, number: int, layers: Layers | None, noise: float) -> Iterator[Transition]:
        """A number of steps, of the actor with normal noise, or of random actions without one."""
        for _ in range(number):
            if layers is None:
                action = self.random.uniform(-1, 1, self._middle.shape)
            else:
                action = act(layers, self._observation.astype(np.float32))
                action = (action + noise * self.random.normal(size=action.shape)).clip(-1, 1)
            yield self._step(action)

    def _step(self, action: np.ndarray) -> Transition:
        before = self._observation
        given = (self._middle + self._half * action).astype(np.float32)
        after, reward, ended, cut, _ = self.environment.step(given)
        self._total += float(reward)
        total = self._total if ended or cut else np.nan
        self._observation = after
        if ended or cut:
            self._observation, _ = self.environment.reset()
            self._total = 0.0
        return Transition(before, action, float(reward), after, float(not ended), total)


def evaluate(environment: Any, layers: Layers, episodes: int, seed: int) -> float:
    """Mean return of the actor without noise."""
    walk, totals = Walk(environment, seed), []
    while len(totals) < episodes:
        (step,) = walk.steps(1, layers, 0.0)
        if not np.isnan(step.total):
            totals.append(step.total)
    return float(np.mean(totals))
