"""Plain models as ONNX files, by jax2onnx."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval

from jsparse._checks import require
from jsparse._pure import Pure
from jsparse._storage.files import write_whole
from jsparse._values import check_path
from jsparse.export._packing.layers import unpack
from jsparse.export._saving.functional import compare, off_mesh, outputs, saved
from jsparse.export._saving.stablehlo import input_specs

Function = Callable[..., list[Any]]


@off_mesh()
def onnx(
    path: str | Path, model: nnx.Module, *inputs: Any, shapes: Sequence[str] = (), **options: Any
) -> None:
    """Write a plain model in eval mode as an ONNX file, its weights inside.

    Packed layers are written dense, as ONNX has no sparse products. If onnxruntime is installed,
    the file must give the outputs of the model on the inputs before it is put in place.

    Args:
      path: of the file; an existing one is replaced.
      model: any NNX module without rules: folded, shrunk or packed; below 2 GB.
      *inputs: arguments of a call, trees of arrays. The first axis, if all have the same, is free
        in the file where the model and jax2onnx allow it.
      shapes: of each array, to say which sizes are free: `("batch, length",)`;
        for a single one a str will do.
      **options: further arguments, the same at each call.

    Raises:
      ImportError: jax2onnx is not installed.
      NotImplementedError: jax2onnx cannot write what the model computes, or writes it wrongly.
      TypeError: no inputs, or one that is not an array.
      ValueError: a model with rules, or with a memory; shapes that do not fit.
    """
    check_path(path=path)
    split = saved(unpack(model), options)
    candidates, _ = input_specs(inputs, shapes)
    expected = outputs(split, inputs)
    require("jax2onnx onnx", "onnx", "writing ONNX")
    faults = []
    for given in candidates:
        for function in (_by_layer, _by_operation):
            try:
                made = _converted(function(split, given), given)
                if importlib.util.find_spec("onnxruntime"):
                    compare(expected, _run(made, inputs), "onnxruntime")
            except Exception as error:  # jax2onnx and onnxruntime may raise anything
                faults.append(f"{type(error).__name__}: {error}".split("\n")[0])
            else:
                return write_whole(Path(path).absolute(), made)
    raise NotImplementedError(
        f"jax2onnx does not write this model: {'; '.join(dict.fromkeys(faults))}; `export.save` "
        "writes it as StableHLO"
    )


def _by_layer(split: Pure, specs: tuple) -> Function:
    """A function in which jax2onnx recognises layers."""
    structure = jax.tree.structure(specs)

    def function(*arrays: Any) -> list[Any]:
        inputs = jax.tree.unflatten(structure, arrays)
        return jax.tree.leaves(split.run(split.variables, *inputs)[0])

    return function


def _by_operation(split: Pure, specs: tuple) -> Function:
    """The same as single operations of JAX, without unused ones, such as random keys."""
    closed = jax.make_jaxpr(_by_layer(split, specs))(*jax.tree.leaves(specs))
    wanted = [True] * len(closed.jaxpr.outvars)
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, wanted, instantiate=True)
    return lambda *arrays: jaxpr_as_fun(ClosedJaxpr(needed, closed.consts))(*arrays)


def _converted(function: Function, specs: tuple) -> bytes:
    jax2onnx = importlib.import_module("jax2onnx")
    return jax2onnx.to_onnx(function, jax.tree.leaves(specs)).SerializeToString()


def _run(made: bytes, inputs: tuple) -> list[np.ndarray]:
    """Outputs in onnxruntime, which raises if the file has faults."""
    onnxruntime = importlib.import_module("onnxruntime")
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(made, quiet, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    arrays = map(np.asarray, jax.tree.leaves(inputs))
    return session.run(None, dict(zip(names, arrays, strict=True)))
