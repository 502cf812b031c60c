"""Walks of a computation: through the operations of a jaxpr, or from one to what it leads to."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from jax.extend.core import ClosedJaxpr, Literal

Value = TypeVar("Value")
Item = TypeVar("Item")
WRAPPERS = {
    "pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr", "composite",
}  # fmt: skip


def _opened(eqn: Any) -> ClosedJaxpr | None:
    """What an operation wraps (`jit`, `remat`, a custom gradient), or None for other operations."""
    if eqn.primitive.name not in WRAPPERS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            inner = inner if hasattr(inner, "consts") else ClosedJaxpr(inner, [])
            return inner if len(inner.jaxpr.invars) == len(eqn.invars) else None
    return None


def interpret(
    closed: ClosedJaxpr,
    inputs: Sequence[Value],
    each: Callable[[Any, list[Value], tuple], Sequence[Value]],
    constant: Callable[[Any, Any], Value],
    above: tuple = (),
) -> list[Value]:
    """The outputs of a jaxpr in which a function stands for each operation.

    Operations that only wrap others are opened in place; loops and branches are not.

    Args:
      closed: the computation.
      inputs: what stands for the arrays that it gets.
      each: function of an operation, of what stands for its inputs, and of the tracebacks of the
        calls around it and its own, the outermost first; returns what stands for its outputs.
      constant: function of an array and its `Literal` or variable; returns what stands for it.
      above: tracebacks of the callers of the whole.

    Example:
      >>> import jax
      >>> closed = jax.make_jaxpr(jax.jit(lambda x: x + 1.0))(2.0)
      >>> says = lambda eqn, read, _: [f"{eqn.primitive.name}({', '.join(read)})"]
      >>> interpret(closed, ["x"], says, lambda value, atom: str(value))
      ['add(x, 1.0)']
    """
    jaxpr = closed.jaxpr
    at: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    constants = zip(jaxpr.constvars, closed.consts, strict=True)
    at |= {var: constant(value, var) for var, value in constants}
    read = lambda atom: constant(atom.val, atom) if isinstance(atom, Literal) else at[atom]
    for eqn in jaxpr.eqns:
        given, source = list(map(read, eqn.invars)), (*above, eqn.source_info.traceback)
        inner = _opened(eqn)
        if inner is None:
            made = each(eqn, given, source)
        else:
            made = interpret(inner, given, each, constant, source)
        at.update(zip(eqn.outvars, made, strict=True))
    return list(map(read, jaxpr.outvars))


def reachable(start: Iterable[Item], onward: Callable[[Item], Iterable[Item]]) -> dict[Item, None]:
    """The start and all that steps `onward` from it lead to, each once, the nearest first.

    Example:
      >>> list(reachable([4, 5], lambda n: [n // 2] if n else []))
      [4, 5, 2, 1, 0]
    """
    return {item: None for items in by_distance(start, onward) for item in items}


def by_distance(
    start: Iterable[Item], onward: Callable[[Item], Iterable[Item]]
) -> Iterator[list[Item]]:
    """The same as lists: the start, then what is one step away from it, then two, and so on.

    Example:
      >>> list(by_distance([4, 5], lambda n: [n // 2] if n else []))
      [[4, 5], [2], [1], [0]]
    """
    found = dict.fromkeys(start)
    items = list(found)
    while items:
        yield items
        after = dict.fromkeys(more for item in items for more in onward(item))
        items = [item for item in after if item not in found]
        found |= dict.fromkeys(items)


def evaluate(primitive: Any, settings: dict[str, Any], *inputs: Any) -> list[Any]:
    """What an operation with the settings of a jaxpr gives."""
    bound = primitive.get_bind_params(settings)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    made = primitive.bind(*functions, *inputs, **params)
    return made if primitive.multiple_results else [made]
