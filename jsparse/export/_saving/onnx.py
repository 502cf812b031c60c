"""Plain models as ONNX files, by jax2onnx."""

import contextlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Literal

from jsparse._checks import require
from jsparse._pure import Pure, by_position, examples
from jsparse._storage.files import write_whole
from jsparse._untraced import outside_jit
from jsparse._values import check_flag, check_path
from jsparse.export._packing.layers import unpack
from jsparse.export._saving.conversion import converted, leave_out_zeros_in_place, run
from jsparse.export._saving.functional import check_outputs_agree, checked_outputs, off_mesh, saved
from jsparse.export._saving.operations import (
    decomposed,
    every,
    is_narrow_float,
    outputs_of,
    without_unused,
)
from jsparse.export._saving.stablehlo import input_specs
from jsparse.export._shrinking.source import called, called_at

Function = Callable[..., list[Any]]
POOLINGS = {n: inspect.signature(getattr(nnx, n)) for n in ("max_pool", "min_pool", "avg_pool")}


@off_mesh()
@outside_jit
def onnx(
    path: str | Path,
    model: nnx.Module,
    *inputs: Any,
    shapes: Sequence[str] = (),
    sparse: bool = False,
    **options: Any,
) -> None:
    """Write a plain model in eval mode as an ONNX file, its weights inside.

    Packed layers are computed dense, as ONNX has no sparse products. If onnxruntime is installed,
    the file must give the outputs of the model on the inputs before it is put in place. Inputs,
    weights and outputs keep their dtypes; what is in float16 or bfloat16 is computed in float32 and
    rounded, as runtimes have few operations for these on a CPU.

    Args:
      path: of the file; an existing one is replaced.
      model: any NNX module, sparse (it is folded), shrunk or packed; below 2 GB.
      *inputs: arguments of a call, trees of arrays or their shapes, as for `shrink`. The first
        axis, if all have the same, is free in the file where the model and jax2onnx allow it; the
        outputs at one more row are then compared too.
      shapes: of each array, to say which sizes are free: `("batch, length",)`;
        for a single one a str will do.
      sparse: whether to leave zeros out of the file where that makes it smaller. onnxruntime and
        OpenVINO read such weights as dense ones, so nothing gets faster; other runtimes may refuse
        them.
      **options: arguments by name. Arrays become inputs, after the others and in this order; the
        rest is fixed.

    Raises:
      ImportError: jax2onnx is not installed.
      NotImplementedError: jax2onnx cannot write what the model computes, or writes it wrongly.
      TypeError: no inputs, or one that is not an array.
      ValueError: a model with state; shapes that do not fit.
    """
    check_path(path=path)
    check_flag(sparse=sparse)
    model, given = by_position(unpack(model), inputs, options)
    inputs, split = examples(given), saved(model)
    candidates, _ = input_specs(inputs, shapes)
    expected = checked_outputs(split, inputs)
    require("jax2onnx onnx", "onnx", "writing ONNX")
    closed = without_unused(_model(split, inputs), jax.tree.leaves(inputs))
    values = [atom.aval for eqn, _ in every(closed) for atom in (*eqn.invars, *eqn.outvars)]
    reduced = [value for value in values if is_narrow_float(value)]
    faults = []
    for specs in candidates:
        # jax2onnx makes better files of whole layers, but computes those in float32
        for function in (_by_operation,) if reduced else (_by_layer, _by_operation):
            try:
                proto = converted(function(split, specs), jax.tree.leaves(specs))
                if sparse:
                    leave_out_zeros_in_place(proto)
                made = proto.SerializeToString()
                if importlib.util.find_spec("onnxruntime"):
                    check_outputs_agree(expected, run(made, inputs), "onnxruntime", reduced)
                    if specs is not candidates[-1]:
                        more = _one_more(inputs)
                        wider = jax.jit(split.run)(split.variables, *more)[0]
                        check_outputs_agree(
                            wider, run(made, more), "onnxruntime, at a larger batch,", reduced
                        )
            except Exception as error:  # jax2onnx and onnxruntime may raise anything
                faults.append(f"{type(error).__name__}: {error}".split("\n")[0])
            else:
                return write_whole(Path(path).absolute(), made)
    fault = _first_failure(closed) or "; ".join(dict.fromkeys(faults))
    raise NotImplementedError(
        f"jax2onnx does not write this model: {fault}. Compute it by other operations, or call "
        "`export.save`, which writes StableHLO"
    )


def _one_more(inputs: tuple) -> tuple:
    """The inputs with their last row twice, if they have rows."""
    return jax.tree.map(lambda x: jnp.concatenate([x, x[-1:]]) if x.ndim else x, inputs)


def _model(split: Pure, specs: Any) -> Function:
    """The outputs of a model as a function of all arrays of its inputs."""
    structure = jax.tree.structure(specs)

    def model(*arrays: Any) -> list[Any]:
        inputs = jax.tree.unflatten(structure, arrays)
        return jax.tree.leaves(split.run(split.variables, *inputs)[0])

    return model


def _by_layer(split: Pure, specs: tuple) -> Function:
    """A function that is traced while jax2onnx substitutes its own operations for layers."""

    def function(*arrays: Any) -> list[Any]:
        with _poolings_by_name():
            closed = without_unused(_model(split, specs), arrays)
        return decomposed(closed)(*arrays)

    return function


def _by_operation(split: Pure, specs: tuple) -> Function:
    """The same as single operations of JAX."""
    return decomposed(without_unused(_model(split, specs), jax.tree.leaves(specs)))


def _first_failure(closed: ClosedJaxpr) -> str:
    """The first operation that fails when it is written alone: its dtypes, place and fault.

    Empty if each is written. Sizes are not free.
    """
    weights = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    tried = set()
    for eqn, source in every(closed):
        avals = [atom.aval for atom in eqn.invars]
        kind = (eqn.primitive.name, str(eqn.params), *map(str, avals))
        if kind in tried:
            continue
        tried.add(kind)
        try:
            function, inputs = _single_operation(eqn, weights)
            made = converted(function, inputs).SerializeToString()
            if importlib.util.find_spec("onnxruntime"):
                expected = function(*inputs)
                arrays = list(map(np.asarray, expected))
                check_outputs_agree(arrays, run(made, inputs), "onnxruntime", expected)
        except Exception as error:  # jax2onnx and onnxruntime may raise anything
            read = dict.fromkeys(str(getattr(aval, "dtype", aval)) for aval in avals)
            dtypes = ", ".join(read) or "no input"
            fault = (str(error).splitlines() or [""])[0]
            name, place = eqn.primitive.name, called_at(called(source))
            return f"`{name}` of {dtypes} at {place}: {type(error).__name__}: {fault}"
    return ""


def _single_operation(eqn: Any, weights: dict[Any, Any]) -> tuple[Function, list[Any]]:
    """A function that is one operation, and inputs for it; weights and literals are constants."""
    free = [v for v in eqn.invars if not isinstance(v, Literal) and v not in weights]
    free = list(dict.fromkeys(free))

    def function(*arrays: Any) -> list[Any]:
        at = weights | dict(zip(free, arrays, strict=True))
        return outputs_of(eqn, *(v.val if isinstance(v, Literal) else at[v] for v in eqn.invars))

    specs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in free]
    return function, examples(specs)


@contextlib.contextmanager
def _poolings_by_name() -> Iterator[None]:
    """Let pooling take its settings by position too, which jax2onnx reads by name only."""

    def named(function: Callable, signature: inspect.Signature) -> Callable:
        def call(*args: Any, **settings: Any) -> Any:
            found = signature.bind(*args, **settings).arguments
            return function(found.pop("inputs"), **found)

        return call

    theirs = {name: getattr(nnx, name) for name in POOLINGS}
    for name, signature in POOLINGS.items():
        setattr(nnx, name, named(theirs[name], signature))
    try:
        yield
    finally:
        for name, function in theirs.items():
            setattr(nnx, name, function)
