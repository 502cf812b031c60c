"""Environments of agents, one a file: small, and exact where they can be."""

from typing import Any, Protocol

from jax import Array


class Environment(Protocol):
    """What an agent acts in: a pytree, whose arrays may differ from seed to seed.

    All methods are for one copy, without a batch, and are mapped over copies.
    """

    def reset(self, key: Array) -> Any:
        """The state at the start of an episode."""
        ...

    def step(self, state: Any, action: Array, key: Array) -> tuple[Any, Array, Array]:
        """The next state, the reward, [], and whether the episode is over, [], bool."""
        ...

    def observe(self, state: Any) -> Array:
        """What the agent sees, [observed]."""
        ...


class Costly(Environment, Protocol):
    """An environment with bounds on what is done in it."""

    def costs(self, state: Any, action: Array) -> Array:
        """[bounds], what an action costs in a state."""
        ...
