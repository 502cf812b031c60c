"""Targets from the steps of another policy.

Reference: Munos, Stepleton, Harutyunyan and Bellemare, Safe and efficient off-policy reinforcement
learning, NeurIPS 2016, arXiv 1606.02647, equation 4.
"""

import jax
import jax.numpy as jnp
from jax import Array


def retrace(reward: Array, keep: Array, value: Array, taken: Array, trust: Array) -> Array:
    """The targets [..., steps] of the values of the actions that were taken.

    Q_t = r_t + keep_t (V_{t+1} + c_{t+1} (Q_{t+1} - taken_{t+1})); after the last step, V alone.

    Args:
      reward: [..., steps].
      keep: [..., steps], the discount, or 0 where a step ended the episode.
      value: [..., steps + 1], of the states: means over the actions of the policy.
      taken: [..., steps], of the actions that were taken.
      trust: [..., steps], c; the first is not read.
    """

    def back(ahead: Array, at: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, keep, after, taken, trust = at
        target = reward + keep * (after + ahead)
        return trust * (target - taken), target

    parts = reward, keep, value[..., 1:], taken, trust
    parts = tuple(jnp.moveaxis(one, -1, 0) for one in parts)
    found = jax.lax.scan(back, jnp.zeros(reward.shape[:-1]), parts, reverse=True)[1]
    return jnp.moveaxis(found, 0, -1)
