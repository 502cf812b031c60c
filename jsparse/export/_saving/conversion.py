"""From a function to an ONNX file, without zeros if asked, and from the file to its outputs."""

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

BFLOAT16 = 16  # in onnx.TensorProto


def converted(function: Callable[..., Any], specs: Any) -> Any:
    """A function of arrays as an `onnx.ModelProto`, by jax2onnx, which may raise anything."""
    jax2onnx = importlib.import_module("jax2onnx")
    with _apart():
        return jax2onnx.to_onnx(function, jax.tree.leaves(specs))


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Keep strict settings from the code of jax2onnx, and what it leaves behind from JAX.

    It promotes ranks, reads deprecated attributes of Flax, and leaves a `jnp.cumsum` that takes no
    axis by position.
    """
    modules = [vars(module) for module in (jnp, jax.lax, jax.nn, nnx)]
    before = [dict(names) for names in modules]
    try:
        with (
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        for names, old in zip(modules, before, strict=True):
            names.update(old)


def run(made: bytes, inputs: Any) -> list[np.ndarray]:
    """Outputs of an ONNX file in onnxruntime, which may raise anything if it has faults."""
    onnxruntime = importlib.import_module("onnxruntime")
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(made, quiet, providers=["CPUExecutionProvider"])
    value = onnxruntime.OrtValue

    def given(array: np.ndarray) -> Any:
        if array.dtype != jnp.bfloat16:
            return value.ortvalue_from_numpy(array)
        return value.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)

    def found(output: Any) -> np.ndarray:
        other = output.data_type() == "tensor(bfloat16)"  # NumPy has none
        return np.asarray(jnp.from_dlpack(output)) if other else output.numpy()

    names = [one.name for one in session.get_inputs()]
    arrays = [given(np.asarray(jnp.asarray(leaf))) for leaf in jax.tree.leaves(inputs)]
    outputs = session.run_with_ort_values(None, dict(zip(names, arrays, strict=True)))
    return list(map(found, outputs))


def leave_out_zeros_in_place(model: Any) -> None:
    """Write each weight as its nonzero values and their positions, where that is smaller.

    1. As a `Constant` with a `sparse_value`: OpenVINO has no sparse initializers.
    2. Positions count along the flattened weight and are stored as `int64_data`, in which a small
       number takes few bytes: 2.9 each for 300 x 784 weights. Raw data would take 8.
    3. Weights in bodies of loops stay dense.
    """
    onnx = importlib.import_module("onnx")
    graph = model.graph
    dense, constants = [], []
    for tensor in graph.initializer:
        sparse = _nonzero(onnx, tensor)
        if sparse.ByteSize() < tensor.ByteSize():
            node = onnx.helper.make_node("Constant", [], [tensor.name], sparse_value=sparse)
            constants.append(node)
        else:
            dense.append(tensor)
    nodes = [*constants, *graph.node]  # what is read comes first
    for field, items in ((graph.initializer, dense), (graph.node, nodes)):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del field[:]
        field.extend(copies)


def _nonzero(onnx: Any, tensor: Any) -> Any:
    """A `SparseTensorProto`; with one zero if there is nothing else."""
    array = onnx.numpy_helper.to_array(tensor).reshape(-1)
    at = np.flatnonzero(array)
    at = at if at.size else np.arange(min(1, array.size))
    values = onnx.numpy_helper.from_array(array[at], tensor.name)
    places = onnx.TensorProto(data_type=onnx.TensorProto.INT64, dims=at.shape, int64_data=at)
    return onnx.SparseTensorProto(values=values, indices=places, dims=tensor.dims)
