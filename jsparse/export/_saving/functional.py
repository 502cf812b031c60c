"""A plain model as a pure function of its weights and inputs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, get_abstract_mesh, use_abstract_mesh

from jsparse._paths import named
from jsparse._slots import sparse_parts, walk_modules
from jsparse._storage.leaves import is_key
from jsparse.export._packing.block import BlockSparse, plain_block_dot
from jsparse.export._packing.csr import Csr, plain_csr_dot
from jsparse.export._shrinking.verify import apart

Model = TypeVar("Model", bound=nnx.Module)
SHOWN = 4  # paths in one error


class Pure(NamedTuple):
    """A model in eval mode without its weights.

    Attributes:
      run: (weights by path, streams, *inputs) -> (output, weights and streams after the call).
      weights: by path; each is there once.
      streams: states of random streams.
      kinds: the class of each variable, by path.
    """

    run: Callable[..., tuple[Any, tuple[dict[str, Any], Any]]]
    weights: dict[str, np.ndarray]
    streams: Any
    kinds: dict[str, str]


def pure(model: nnx.Module, options: Mapping[str, Any]) -> Pure:
    """Split a plain model in eval mode.

    Args:
      model: any NNX module; left as it is.
      options: further arguments of each call.

    Raises:
      TypeError: a variable holds random keys.
      ValueError: there are rules in it; or a weight is spread over processes.
    """
    if rules := list(sparse_parts(model)):
        raise ValueError(
            f"{_some(rules)} still has a rule, and a file holds no rules; fold the model first: "
            "jsparse.fold(model)"
        )
    model = nnx.clone(model)
    model.eval()
    graphdef, streams, rest = nnx.split(model, nnx.RngState, ...)
    leaves, structure = named(rest), jax.tree.structure(rest)
    variables = jax.tree.leaves(rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    kinds = {path: type(var).__name__ for path, var in zip(leaves, variables, strict=True)}

    def run(weights: Mapping[str, Any], streams: Any, *inputs: Any) -> Any:
        given = jax.tree.unflatten(structure, [weights[path] for path in leaves])
        merged: Any = nnx.merge(graphdef, jax.tree.map(jnp.asarray, streams), given)
        output = merged(*inputs, **options)
        random, after = nnx.state(merged, nnx.RngState, ...)
        return output, ({p: leaf for p, leaf in named(after).items() if p in leaves}, random)

    weights = {path: _host(path, leaf) for path, leaf in leaves.items()}
    return Pure(run, weights, streams, kinds)


@contextlib.contextmanager
def off_mesh() -> Iterator[None]:
    """Leave a mesh with explicit axes, on which no size can be free."""
    if AxisType.Explicit not in get_abstract_mesh().axis_types:
        yield
        return
    with use_abstract_mesh(AbstractMesh((), ())):
        yield


def with_products(model: Model, csr: Any, block: Any) -> Model:
    """A copy whose packed layers have other products, of the same values.

    Args:
      model: any NNX module.
      csr: for each `Csr`.
      block: for each `BlockSparse`.
    """
    copy = nnx.clone(model)
    for _, module in walk_modules(copy):
        if isinstance(module, Csr):
            module.product = csr
        elif isinstance(module, BlockSparse):
            module.product = block
    return copy


def portable(model: Model) -> Model:
    """A copy whose packed layers need no kernel: plain JAX, for any machine."""
    return with_products(model, plain_csr_dot, plain_block_dot)


def _host(path: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise ValueError(f"{path} is spread over processes; gather it to one first")
    if is_key(leaf):
        raise TypeError(
            f"{path} is a random key, and what a file holds draws nothing; keep it in nnx.Rngs, or "
            "give it as an input"
        )
    return np.asarray(leaf)


def outputs(split: Pure, inputs: tuple) -> Any:
    """The outputs of a model, which must be the same at each call.

    Args:
      split: from `pure`.
      inputs: trees of arrays.

    Raises:
      ValueError: a second call gives others: a cache, a counter, a random stream moved on.
    """
    run = jax.jit(split.run)
    first, (weights, streams) = run(split.weights, split.streams, *inputs)
    second, _ = run(weights, streams, *inputs)
    off = _off(first, second)
    if off.by > off.allowed:
        names = [p for p, x in weights.items() if not np.array_equal(x, split.weights[p])]
        raise ValueError(
            f"a second call gives outputs that are off by {off.by:.1e}, in eval mode too, after "
            f"changes in {_some(names) or 'random streams'}; a program has no memory and draws "
            "nothing: leave that out, or make it inputs and outputs"
        )
    return first


def compare(expected: Any, found: Any, what: str) -> None:
    """Refuse outputs that are not the model's.

    Raises:
      ValueError: they are further apart than rounding explains.
    """
    off = _off(expected, found)
    if not off.by <= off.allowed:
        raise ValueError(
            f"{what} gives outputs that are off by {off.by:.1e} of the largest, more than "
            f"{off.allowed:.1e}"
        )


class _Off(NamedTuple):
    by: float
    allowed: float


def _off(expected: Any, found: Any) -> _Off:
    """How far outputs are apart, and how far rounding may bring them."""
    leaves = jax.tree.leaves(expected)
    kinds = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    eps = max([float(jnp.finfo(kind).eps) for kind in kinds], default=0.0)
    return _Off(apart(leaves, jax.tree.leaves(found)), min(0.1, 1e3 * eps))


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
