"""A rule over the leading axes that stack whole layers; equal rules and shapes share a program."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.core import Tracer

from jsparse._pattern import Role
from jsparse._values import shown
from jsparse.rules._rule import APART, Rule, State, check_structure


def over_stack(method: Callable, stack: int) -> Callable:
    """A method of a rule, mapped over the leading axes that stack whole layers."""
    for _ in range(stack):
        method = jax.vmap(method)
    return method


@partial(jax.jit, static_argnums=(0, 1))
def stacked_apply(rule: Rule, stack: int, weight: Array, state: State) -> Array:
    """`rule.apply` over a stack of layers; jitted, so equal layers of a model are traced once."""
    return over_stack(rule.apply, stack)(weight, state)


def compiled_as_one(method: Callable[[Any], Callable]) -> Callable[..., Any]:
    """A method over a stack of layers: (rule, stack, weight, state or keys) -> what it gives.

    It is one program instead of one for each operation, if the weight is on one device. On several,
    each operation places its result like its inputs, which a single program might not.
    """

    def stacked(rule: Rule, stack: int, weight: Array, other: Any) -> Any:
        return over_stack(method(rule), stack)(weight, other)

    jitted = jax.jit(stacked, static_argnums=(0, 1))

    def run(rule: Rule, stack: int, weight: Array, other: Any) -> Any:
        concrete = isinstance(weight, Array) and not isinstance(weight, Tracer)
        as_one = concrete and len(weight.devices()) == 1
        return (jitted if as_one else stacked)(rule, stack, weight, other)

    return run


stacked_mask = compiled_as_one(lambda rule: rule.mask)
_stacked_init = compiled_as_one(lambda rule: rule.init)


@partial(jax.jit, static_argnums=(0, 1))
def stacked_advance(rule: Rule, stack: int, weight: Array, state: State) -> State:
    """`rule.advance` over a stack of layers; jitted, as `stacked_apply` is."""
    return over_stack(rule.advance, stack)(weight, state)


def stacked_init(rule: Rule, weight: Array, key: Array) -> State:
    """The state of a stack of layers, each with its own key: weight [stack..., layer...]."""
    try:
        hash(rule)  # compiled programs are cached by their rules
    except TypeError as error:
        raise TypeError(
            "a rule must be a frozen dataclass of numbers, with tuples instead of lists, and "
            f"arrays in its state; got {shown(rule)}: {error}"
        ) from error
    if rule.role.stack and rule.role.stack >= weight.ndim:
        raise ValueError(
            f"the rule's role has {rule.role.stack} stacked axes, but the weight {weight.shape} "
            f"has only {weight.ndim} axes; give the role a smaller stack"
        )
    check_structure(rule)
    own = rule.role.outputs + (rule.role.inputs if rule.role.inputs != Role().inputs else ())
    lost = [axis for axis in own if axis < rule.role.stack - weight.ndim]
    if weight.ndim and lost:
        raise ValueError(
            f"the rule's role names axis {lost[0]}, but the weight {weight.shape} has only "
            f"{weight.ndim - rule.role.stack} axes; give it the role of this weight"
        )
    key, stack = jax.random.fold_in(key, APART), weight.shape[: rule.role.stack]
    keys = jax.random.split(key, stack) if stack else key
    return _stacked_init(rule, len(stack), weight, keys)


@partial(jax.jit, static_argnums=(0, 2))
def stacked_cost(rule: Rule, state: State, stack: int) -> Array:
    """The total cost of a stack of layers, []; a rule without state has nothing to map over.

    Jitted, as `stacked_apply` is.
    """
    cost = over_stack(rule.cost, stack if state else 0)(state)
    return cost.sum() if cost.ndim else cost


def shapes_if_doubled(rule: Rule, weight: Array) -> list[dict[str, tuple[int, ...]]]:
    """By axis of the weight, the shapes of the state if that axis were twice as long."""

    def shapes(axis: int) -> dict[str, tuple[int, ...]]:
        shape = tuple(2 * n if a == axis else n for a, n in enumerate(weight.shape))
        longer = jax.ShapeDtypeStruct(shape, weight.dtype)
        try:
            state = jax.eval_shape(lambda w: stacked_init(rule, w, jax.random.key(0)), longer)
        except ValueError:  # a single unit would become several, each alone: no axis grows
            return {}
        return {name: value.shape for name, value in state.items()}

    return [shapes(axis) for axis in range(weight.ndim)]
