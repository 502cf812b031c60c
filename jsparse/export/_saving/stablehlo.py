"""A plain model as a StableHLO program."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.export import Exported

from jsparse._paths import named
from jsparse._pure import Pure, by_position, examples, settings
from jsparse._untraced import outside_jit
from jsparse._values import shown
from jsparse.export._packing import compiled
from jsparse.export._saving.functional import check_outputs_agree, checked_outputs, off_mesh, saved

PLATFORMS = ("cpu", "cuda", "tpu")


class Program(NamedTuple):
    """A model as StableHLO: a function (weights by path, *inputs) -> output.

    `fixed` says why all input sizes are those of the examples; it is empty if the batch is free.
    """

    exported: Exported
    specs: tuple
    fixed: str


@off_mesh()
def program(split: Pure, inputs: tuple, shapes: Sequence[str]) -> Program:
    """The program of a model from `saved`, compared with it on the inputs; see `stablehlo`.

    Raises:
      ValueError: the model has state, or its code takes another path if sizes are free.
    """
    candidates, why = input_specs(inputs, shapes)
    expected = checked_outputs(split, inputs)
    *free, last = candidates
    for specs in free:
        try:
            exported = _on_all_platforms(split, specs)
            break
        except Exception as error:  # the model's own code may raise anything at a free size
            why = f"{type(error).__name__}: {error}".split("\n")[0]
    else:
        exported, specs = _on_all_platforms(split, last), last
    found = jax.jit(exported.call)(split.variables, *inputs)
    check_outputs_agree(
        expected, found, "the program with free sizes (the code of the model asks for sizes)"
    )
    return Program(exported, specs, why)


@off_mesh()
def kernel_program(model: nnx.Module, specs: tuple) -> Exported:
    """The program of a packed model with the kernels for the CPU, which `compiled.load` registers.

    `specs` are those of the portable program.
    """
    split = saved(model, lambda products: products.kernel)
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in compiled.TARGETS]
    return _exported(_function(split), split, specs, platforms=("cpu",), disabled_checks=checks)


@outside_jit
def stablehlo(
    model: nnx.Module, *inputs: Any, shapes: Sequence[str] = (), **options: Any
) -> Exported:
    """A plain model in eval mode as a StableHLO program, by `jax.export`.

    The program is for CPU, CUDA and TPU if the model lowers for all of them. Packed layers are in
    plain JAX, as other machines may lack the kernels.

    Args:
      model: any NNX module without rules: folded, shrunk or packed.
      *inputs: arguments of a call, trees of arrays or their shapes, as for `shrink`. The first
        axis, if all have the same, is free in the program where the model allows it.
      shapes: of each array, to say which sizes are free: `("batch, length", "batch, 28, 28, 1")`.
      **options: arguments by name. Arrays become inputs, after the others and in this order; the
        rest is fixed.

    Returns:
      A function (weights by path, *inputs) -> output; `.mlir_module()` is its text, `.serialize()`
      its bytes.

    Raises:
      TypeError: no inputs, or one that is not an array.
      ValueError: a model with rules, or one that a call changes; shapes that do not fit; an empty
        batch.

    Example:
      >>> import jax.numpy as jnp
      >>> exported = stablehlo(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), jnp.ones((2, 4)))
      >>> exported.out_avals[0].shape
      (batch, 3)
    """
    model, given = by_position(model, inputs, options)
    return program(saved(model), examples(given), shapes).exported


def input_specs(inputs: tuple, shapes: Sequence[str]) -> tuple[list[tuple], str]:
    """Candidates for shapes and dtypes of inputs, and why none of them has free sizes.

    Without shapes given, the first axes are free in the first candidate, if they agree.

    Raises:
      TypeError: no inputs, or one that is not an array.
      ValueError: not a shape for each array, or one that does not fit its array; an empty batch.
    """
    for path, leaf in named(inputs).items():
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise TypeError(
                f"input {path} is a {type(leaf).__name__}; inputs are arrays, and what is the same "
                "at each call is given by name: ..., model, x, train=False)"
            )
    arrays, structure = jax.tree.flatten(inputs)
    if not arrays:
        raise TypeError(
            "got no inputs; after the model give the arrays of a call, in order or by name, or "
            "their shapes in order: ..., model, x)"
        )
    shapes = [shapes] if isinstance(shapes, str) else shapes
    with settings(shapes=shapes):
        if not isinstance(shapes, Sequence) or not all(isinstance(one, str) for one in shapes):
            raise TypeError(
                f"shapes must be a str each, such as ('batch, 28',); got {shown(shapes)}"
            )

    def specs(given: Sequence[str]) -> tuple:
        try:
            found = jax.export.symbolic_args_specs(arrays, list(given))
        except Exception as error:  # of the tokenizer, too
            raise ValueError(
                f"shapes must be of the inputs, such as 'batch, 28'; got {list(given)}: {error}"
            ) from error
        return jax.tree.unflatten(structure, found)

    if shapes:
        if len(shapes) != len(arrays):
            raise ValueError(
                f"shapes: got {len(shapes)} for {len(arrays)} input arrays; give one each, in order"
            )
        return [specs(shapes)], ""
    fixed = specs(["..."] * len(arrays))
    sizes = {array.shape[0] for array in arrays if array.ndim}
    if sizes == {0}:
        raise ValueError("the inputs are of an empty batch; give one of 1 or more")
    if len(sizes) != 1:
        return [fixed], f"the first axes of the inputs have the sizes {sorted(sizes)}"
    return [specs(["batch, ..." if array.ndim else "" for array in arrays]), fixed], ""


def _on_all_platforms(split: Pure, specs: tuple) -> Exported:
    """Export for all platforms if possible, else for the current one."""
    function = _function(split)  # one jit, so that both exports share the trace
    try:
        return _exported(function, split, specs, platforms=PLATFORMS)
    except Exception:  # in many ways where a platform is missing; others are raised again
        return _exported(function, split, specs)


def _function(split: Pure) -> Any:
    def model(weights: Mapping[str, Any], *inputs: Any) -> Any:
        return split.run(weights, *inputs)[0]

    return jax.jit(model)


def _exported(function: Any, split: Pure, specs: tuple, **options: Any) -> Exported:
    """Export without the locations of source files, which name folders of this machine."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        return jax.export.export(function, **options)(split.variables, *specs)
    finally:
        jax.config.update(name, limit)
