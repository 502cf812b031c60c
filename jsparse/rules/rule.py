"""The interface of a rule.

Throughout: mask 1 = kept, score high = kept, density = fraction kept.
"""

from collections.abc import Callable
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jsparse.pattern import Role

State = dict[str, Array]


class Rule(Protocol):
    """Which weights of one layer count: pure functions of the weight and a small state.

    A rule is a frozen, keyword-only dataclass of numbers, so that equal rules compare equal and
    trace once. Arrays live in its state. `learned` names the entries of the state that gradients
    train; the others change only in `advance`, or when a control sets them.
    """

    learned: ClassVar[tuple[str, ...]]

    @property
    def role(self) -> Role:
        """What the layer knows of the axes of its weight."""
        ...

    def init(self, weight: Array, key: Array) -> State:
        """State for a weight of one layer: weight [...], key [] -> arrays by name."""
        ...

    def mask(self, weight: Array, state: State) -> Array:
        """[...] as the weight: 1 kept, 0 not, with the rule's soft backward pass."""
        ...

    def apply(self, weight: Array, state: State) -> Array:
        """[...] as the weight: what the layer reads in its place."""
        ...

    def cost(self, state: State) -> Array:
        """[]: what the rule adds to the loss; 0 where nothing is learned."""
        ...

    def advance(self, weight: Array, state: State) -> State:
        """The state after the events of a train step, with the weight already updated."""
        ...


def over_stack(method: Callable, stack: int) -> Callable:
    """A method of a rule, mapped over the leading axes that stack whole layers."""
    for _ in range(stack):
        method = jax.vmap(method)
    return method


def stacked_init(rule: Rule, weight: Array, key: Array) -> State:
    """State of each layer of a stack, with keys of their own: weight [stack..., layer...]."""
    if rule.role.stack and rule.role.stack >= weight.ndim:
        raise ValueError(
            f"the rule's role has {rule.role.stack} stacked axes, the weight {weight.shape} has "
            f"{weight.ndim} in all; give a smaller stack"
        )
    stack = weight.shape[: rule.role.stack]
    keys = jax.random.split(key, stack) if stack else key
    return over_stack(rule.init, len(stack))(weight, keys)


def stacked_cost(rule: Rule, state: State, stack: int) -> Array:
    """Cost of all layers of a stack, []."""
    # a rule without state costs the same for each layer: nothing to map over
    return over_stack(rule.cost, stack if state else 0)(state).sum()


def check_weight(weight: Array) -> None:
    """Refuse what cannot be masked.

    Raises:
      TypeError: the weight is not of a floating type.
      ValueError: the weight has no axes.
    """
    if not jnp.issubdtype(weight.dtype, jnp.floating):
        raise TypeError(
            f"a rule needs a floating-point weight, got {weight.dtype} of shape {weight.shape}; "
            "leave it out of the pattern"
        )
    if weight.ndim == 0:
        raise ValueError(
            "a rule needs a weight with axes, got a scalar; leave it out of the pattern"
        )
