"""A plain model as a pure function of its weights and inputs, and checks of its outputs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, get_abstract_mesh, use_abstract_mesh

from jsparse._paths import listed
from jsparse._pure import Pure, calling, evaluated, pure
from jsparse._slots import check_module, sparse_parts, walk_modules
from jsparse._storage.leaves import is_key
from jsparse.export._packing.packed import Packed, Products
from jsparse.export._shrinking.verify import apart, rounding

Model = TypeVar("Model", bound=nnx.Module)
SHOWN = 4  # paths in one error


def saved(model: nnx.Module, options: Mapping[str, Any]) -> Pure:
    """A plain model in eval mode, taken apart into its weights and a function of them.

    Args:
      model: any NNX module; not changed.
      options: further arguments of each call.

    Returns:
      Weights as numpy arrays. Random streams are constants of the function unless its first
      argument holds them, as what it returns does.

    Raises:
      TypeError: a variable holds random keys.
      ValueError: the model has rules; or a weight is spread over processes.
    """
    if rules := list(sparse_parts(model)):
        raise ValueError(
            f"there are still rules on {listed(rules, SHOWN)}, which a file cannot hold; fold the "
            "model first: jsparse.fold(model)"
        )
    run, variables, kinds = pure(evaluated(model), **options)
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


def with_kernels(model: Model) -> Model:
    """A copy whose packed layers use the kernels for the CPU."""
    return _with_products(model, lambda products: products.kernel)


def portable(model: Model) -> Model:
    """A copy whose packed layers need no kernel: plain JAX, for any machine."""
    return _with_products(model, lambda products: products.plain)


def _with_products(model: Model, choose: Callable[[Products], Any]) -> Model:
    check_module(model)
    copy = nnx.clone(model)
    for _, module in walk_modules(copy):
        if isinstance(module, Packed):
            module.product = choose(module.products)
    return copy


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
    """Refuse outputs that differ from the model's.

    Args:
      expected: tree of arrays.
      found: another, with the same leaves.
      what: gave them, for the error.
      within: values inside the model, with dtypes that round more than those of its outputs.
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
