"""How the outputs of a policy network are read: as a choice, or as numbers with normal noise.

Of outputs [..., outputs], `sample` draws an action for each row, and `log_prob` (of actions) and
`entropy` are [...].
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some actions, a whole number [...]; the outputs are logits."""

    actions: int

    @property
    def outputs(self) -> int:
        return self.actions

    def sample(self, out: Array, key: Array) -> Array:
        return jax.random.categorical(key, out)

    def log_prob(self, out: Array, action: Array) -> Array:
        log = jax.nn.log_softmax(out)
        return jnp.take_along_axis(log, action[..., None], axis=-1)[..., 0]

    def entropy(self, out: Array) -> Array:
        log = jax.nn.log_softmax(out)
        return -(jnp.exp(log) * log).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Numbers [..., actions] with normal noise; the outputs are means and log deviations.

    Actions are not bounded: an environment clips them. Log deviations are kept within -5 and 2.
    """

    actions: int

    @property
    def outputs(self) -> int:
        return 2 * self.actions

    def _parts(self, out: Array) -> tuple[Array, Array]:
        mean, log = jnp.split(out, 2, axis=-1)
        return mean, log.clip(-5, 2)

    def sample(self, out: Array, key: Array) -> Array:
        mean, log = self._parts(out)
        return mean + jnp.exp(log) * jax.random.normal(key, mean.shape)

    def log_prob(self, out: Array, action: Array) -> Array:
        mean, log = self._parts(out)
        square = ((action - mean) * jnp.exp(-log)) ** 2
        return -(0.5 * square + log + 0.5 * np.log(2 * np.pi)).sum(axis=-1)

    def entropy(self, out: Array) -> Array:
        return (self._parts(out)[1] + 0.5 * np.log(2 * np.pi * np.e)).sum(axis=-1)


Policy = Choice | Gaussian
