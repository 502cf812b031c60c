"""The objective of PPO: advantages, combined from several, and the clipped ratio."""

import jax
import jax.numpy as jnp
from jax import Array


def advantages(
    gain: Array, value: Array, last: Array, going: Array, gamma: float, lam: float
) -> Array:
    """Generalized advantages: d_t = r_t + gamma V_{t+1} - V_t, A_t = d_t + gamma lam A_{t+1}.

    Nothing is added from beyond the end of an episode.

    Args:
      gain: [steps, copies, critics], rewards or costs.
      value: [steps, copies, critics], of what was seen before each step.
      last: [copies, critics], of what is seen after all.
      going: [steps, copies], 0 where a step ended an episode, else 1.
      gamma: the discount.
      lam: how far later errors count.
    """
    keep = gamma * going[..., None]
    errors = gain + keep * jnp.concatenate([value[1:], last[None]]) - value

    def back(ahead: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        error, keep = at
        ahead = error + lam * keep * ahead
        return ahead, ahead

    return jax.lax.scan(back, jnp.zeros_like(last), (errors, keep), reverse=True)[1]


def weighed(advantage: Array, prices: Array) -> Array:
    """One advantage, [...], of [..., 1 + bounds], at the prices [bounds]."""
    axes = tuple(range(advantage.ndim - 1))
    centered = advantage - advantage.mean(axis=axes, keepdims=True)
    reward = centered[..., 0] / (centered[..., 0].std() + 1e-8)
    return (reward - centered[..., 1:] @ prices) / (1 + prices.sum())


def clipped(ratio: Array, advantage: Array, clip: float) -> Array:
    """What the policy ascends, for each step."""
    return jnp.minimum(ratio * advantage, ratio.clip(1 - clip, 1 + clip) * advantage)
