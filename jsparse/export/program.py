"""A plain model as a pure function of its weights and inputs, and as a StableHLO program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.export import Exported

from jsparse.export import compiled
from jsparse.export.block import BlockSparse, block_dot, plain_block_dot
from jsparse.export.check import apart
from jsparse.export.csr import Csr, csr_dot, plain_csr_dot
from jsparse.leaves import named
from jsparse.slots import sparse_parts, walk_modules

Made = TypeVar("Made")
Model = TypeVar("Model", bound=nnx.Module)
PLATFORMS = ("cpu", "cuda", "tpu")
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


class Program(NamedTuple):
    """A model as StableHLO.

    Attributes:
      exported: a function (weights by path, *inputs) -> output.
      specs: of the inputs.
      fixed: why all sizes of inputs are those of the examples; empty if the batch is free.
    """

    exported: Exported
    specs: tuple
    fixed: str


def pure(model: nnx.Module, options: Mapping[str, Any]) -> Pure:
    """Split a plain model in eval mode.

    Args:
      model: any NNX module; left as it is.
      options: further arguments of each call.

    Raises:
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


def program(split: Pure, inputs: tuple, shapes: Sequence[str]) -> Program:
    """The program of a model, compared with it on the inputs.

    Args:
      split: from `pure`.
      inputs: trees of arrays.
      shapes: of each array, as `jax.export.symbolic_shape` reads them; if there are none the first
        axes are free where that can be.

    Raises:
      TypeError: an input that is no array.
      ValueError: shapes that do not fit; a model with a memory, or whose code takes another path
        where sizes are free.
    """
    specs = input_specs(inputs, shapes)
    expected = outputs(split, inputs)
    make = lambda given: (_export(split, given), given)
    (exported, free), fixed = specs.first(make)
    found = jax.jit(exported.call)(split.weights, *inputs)
    compare(expected, found, "the program with free sizes (the code of the model asks for sizes)")
    return Program(exported, free, fixed)


def kernel_program(model: nnx.Module, options: Mapping[str, Any], specs: tuple) -> Exported:
    """The program of a packed model with the kernels for the CPU, which `compiled.load` registers.

    Args:
      model: any NNX module without rules.
      options: further arguments of each call.
      specs: of the inputs, as the portable program has them.
    """
    split = pure(with_products(model, csr_dot, block_dot), options)
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in compiled.TARGETS]
    exporter = jax.export.export(_function(split), platforms=("cpu",), disabled_checks=checks)
    return exporter(_shapes(split.weights), *specs)


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
    kinds = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    eps = max([float(jnp.finfo(kind).eps) for kind in kinds], default=0.0)
    return _Off(apart(leaves, jax.tree.leaves(found)), min(0.1, 1e3 * eps))


def stablehlo(
    model: nnx.Module, *inputs: Any, shapes: Sequence[str] = (), **options: Any
) -> Exported:
    """A plain model in eval mode as a StableHLO program, by `jax.export`.

    The program is for CPU, CUDA and TPU where the model lowers for all of them. Packed layers are
    in plain JAX in it, as other machines may have no kernels.

    Args:
      model: any NNX module without rules: folded, shrunk or packed.
      *inputs: arguments of a call, trees of arrays. The first axis, if all have the same, is free
        in the program where the model allows it.
      shapes: of each array, to say which sizes are free: `("batch, length", "batch, 28, 28, 1")`.
      **options: further arguments, the same at each call.

    Returns:
      A function (weights by path, *inputs) -> output; `.mlir_module()` is its text, `.serialize()`
      its bytes.

    Raises:
      TypeError: an input that is no array.
      ValueError: a model with rules, or one that a call changes; shapes that do not fit.

    Example:
      >>> exported = stablehlo(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), jnp.ones((2, 4)))
      >>> exported.out_avals[0].shape
      (batch, 3)
    """
    return program(pure(portable(model), options), inputs, shapes).exported


def _export(split: Pure, specs: tuple) -> Exported:
    """For all platforms where that goes, else for the one at hand."""
    function, weights = _function(split), _shapes(split.weights)
    try:
        return jax.export.export(function, platforms=PLATFORMS)(weights, *specs)
    except Exception:  # what another platform lacks shows in many ways; the second try tells
        return jax.export.export(function)(weights, *specs)


def _function(split: Pure) -> Any:
    return jax.jit(lambda weights, *inputs: split.run(weights, split.streams, *inputs)[0])


def _shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in weights.items()}


class Specs(NamedTuple):
    """Shapes and dtypes of inputs.

    Attributes:
      free: with free sizes; empty where there can be none.
      fixed: with the sizes of the examples; empty where that was not asked for.
      why: there are none.
    """

    free: tuple
    fixed: tuple
    why: str

    def first(self, make: Callable[[tuple], Made]) -> tuple[Made, str]:
        """What is made of free sizes, or of fixed ones where that fails; and then why."""
        why = self.why
        if self.free:
            try:
                return make(self.free), ""
            except Exception as error:  # the model's own code may raise anything at a free size
                if not self.fixed:
                    raise
                why = f"{type(error).__name__}: {error}".split("\n")[0]
        return make(self.fixed), why


def input_specs(inputs: tuple, shapes: Sequence[str]) -> Specs:
    """Free sizes of inputs: those that are asked for, else the first axes.

    Args:
      inputs: trees of arrays.
      shapes: of each array; if there are none, fixed sizes are allowed.

    Raises:
      TypeError: an input that is no array.
      ValueError: not a shape for each array, or one that is not of its array.
    """
    for path, leaf in named(inputs).items():
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise TypeError(
                f"input {path} is a {type(leaf).__name__}; inputs are arrays, and what is the same "
                "at each call is given by name: save(folder, model, x, train=False)"
            )
    arrays, structure = jax.tree.flatten(inputs)

    def specs(given: Sequence[str]) -> tuple:
        found = jax.export.symbolic_args_specs(arrays, list(given))
        return jax.tree.unflatten(structure, found)

    if shapes:
        if len(shapes) != len(arrays):
            raise ValueError(
                f"{len(shapes)} shapes for {len(arrays)} input arrays; give one each, in order"
            )
        return Specs(specs(shapes), (), "")
    fixed = specs(["..."] * len(arrays))
    sizes = {array.shape[0] for array in arrays if array.ndim}
    if len(sizes) != 1:
        return Specs((), fixed, f"the first axes of the inputs have the sizes {sorted(sizes)}")
    return Specs(specs(["batch, ..." if array.ndim else "" for array in arrays]), fixed, "")


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
