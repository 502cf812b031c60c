"""A plain model as a pure function of its weights and inputs, and checks of its outputs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, get_abstract_mesh, use_abstract_mesh

from jsparse._paths import listed
from jsparse._pure import Pure, calling, pure
from jsparse._slots import sparse_parts, walk_modules
from jsparse._storage.leaves import is_key
from jsparse.export._packing.packed import Packed, Products
from jsparse.export._shrinking.verify import apart, rounding

SHOWN = 4  # paths in one error


def saved(model: nnx.Module, choose: Callable[[Products], Any] = attrgetter("plain")) -> Pure:
    """A plain model in eval mode, taken apart into its weights, in numpy, and a function of them.

    Packed layers get the product that is chosen for them: plain JAX, for any machine. Random
    streams are constants of the function unless its first argument holds them, as what it returns
    does.

    Raises:
      TypeError: a variable holds random keys.
      ValueError: the model has rules; or a weight is spread over processes.
    """
    if rules := list(sparse_parts(model)):
        raise ValueError(
            f"there are still rules on {listed(rules, SHOWN)}, which a file cannot hold; fold the "
            "model first: jsparse.fold(model)"
        )
    copy = nnx.clone(model)
    copy.eval()
    for _, module in walk_modules(copy):
        if isinstance(module, Packed):
            module.product = choose(module.products)
    run, variables, kinds = pure(copy)
    streams = {p: x for p, x in variables.items() if issubclass(kinds[p], nnx.RngState)}
    weights = {p: _on_host(p, x) for p, x in variables.items() if p not in streams}
    return Pure(lambda given, *inputs: run({**streams, **given}, *inputs), weights, kinds)


@contextlib.contextmanager
def off_mesh() -> Iterator[None]:
    """Leave a mesh with explicit axes, on which sizes cannot be free."""
    if AxisType.Explicit not in get_abstract_mesh().axis_types:
        yield
        return
    with use_abstract_mesh(AbstractMesh((), ())):
        yield


def _on_host(path: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise ValueError(f"{path} is spread over processes; gather it to one first")
    if is_key(leaf):
        raise TypeError(
            f"{path} is a random key, and a saved model cannot draw; keep it in nnx.Rngs, or "
            "give it as an input"
        )
    return np.asarray(leaf)


def checked_outputs(split: Pure, inputs: tuple) -> Any:
    """The outputs of a model, which must be the same at every call.

    Raises:
      ValueError: a second call gives others: a cache, a counter or a random stream has changed.
    """
    run = jax.jit(split.run)
    with calling("inputs", inputs):
        first, after = run(split.variables, *inputs)
    second, _ = run(after, *inputs)
    by, allowed = _difference(first, second)
    if by > allowed:
        weights = split.variables.items()
        changed = [path for path, x in weights if not np.array_equal(x, after[path])]
        raise ValueError(
            f"a second call gives outputs that are off by {by:.1e}, in eval mode too, after "
            f"changes in {listed(changed or ['random streams'], SHOWN)}; an exported "
            "program cannot keep state or draw random numbers: remove these, or make them inputs "
            "and outputs"
        )
    return first


def check_outputs_agree(expected: Any, found: Any, what: str, within: Sequence[Any] = ()) -> None:
    """Refuse outputs that differ from the model's by more than rounding, also that of `within`.

    `what` gave the outputs, for the error; `within` are values inside the model, which are rounded
    too.
    """
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        if jnp.issubdtype(one.dtype, jnp.inexact) and other.dtype != one.dtype:
            raise ValueError(f"{what} gives {other.dtype} where the model gives {one.dtype}")
    by, allowed = _difference(expected, found)
    allowed = max(allowed, rounding(within))
    if not by <= allowed:
        raise ValueError(
            f"{what} gives outputs that are off by {by:.1e} of the largest, more than {allowed:.1e}"
        )


def _difference(expected: Any, found: Any) -> tuple[float, float]:
    """How far outputs are apart, and how much of that rounding explains."""
    leaves = jax.tree.leaves(expected)
    return apart(leaves, jax.tree.leaves(found)), rounding(leaves)
