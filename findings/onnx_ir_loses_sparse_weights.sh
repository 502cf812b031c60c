#!/usr/bin/env bash
# A round trip through onnx-ir deletes the sparse weights of an ONNX model.
#
# Guess: `sparse_initializer` has been part of ONNX since IR version 5 (2019), so the tools either carry it
#   or refuse the model; deserialize followed by serialize is the identity.
# Versions: onnx 1.23.2, onnx-ir 1.1.0, onnxruntime 1.32.0, numpy 2.4.6.
# What happens: onnx-ir, on which PyTorch's and JAX's newer exporters and onnxscript's optimizer are built, reads
#   the model, logs one warning that an input cannot be found, and writes a file without the weight: no
#   initializer, sparse or dense, holds it. onnxruntime then refuses what it ran a moment before.
#   onnx's own printer leaves the weight out without a word, and the checker with full_check=True calls
#   the valid model wrong ("Input tensors of wrong rank (0)") while the plain check passes it.
#   With the same weight as a Constant node's `sparse_value`, onnx-ir raises, the full check passes, and
#   onnxruntime runs it.
# Who is hurt: anyone who stores a pruned model sparsely and then optimizes, renames or merges it with an
#   onnx-ir tool.
# Remedy: make weights sparse as the last step, and as Constants; or keep a dense file for the tools.
#
# Output seen:
#   as made                      sparse 1, dense 0, onnxruntime: equal to NumPy
#   after onnx-ir                sparse 0, dense 0, onnxruntime: refuses
#   printer mentions the values: False
#   full_check: [ShapeInferenceError] Input tensors of wrong rank (0)
#   as a Constant                onnx-ir: SerdeError, full check passes, onnxruntime: equal to NumPy

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper

rng = np.random.default_rng(0)
kernel = rng.normal(size=(64, 32)).astype(np.float32)
kernel[rng.random(kernel.shape) < 0.95] = 0
places = np.flatnonzero(kernel).astype(np.int64)
values = helper.make_tensor("W", TensorProto.FLOAT, [places.size], kernel.ravel()[places])
indices = helper.make_tensor("W_places", TensorProto.INT64, [places.size], places)
sparse = helper.make_sparse_tensor(values, indices, kernel.shape)
x = rng.normal(size=(3, 64)).astype(np.float32)


def model(constant):
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"])]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["W"], sparse_value=sparse))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        sparse_initializer=[] if constant else [sparse],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def runs(made):
    try:
        session = onnxruntime.InferenceSession(
            made.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    except Exception:
        return "refuses"
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ kernel, rtol=1e-4, atol=1e-5)
    return "equal to NumPy"


def row(name, made):
    graph = made.graph
    found = len(graph.sparse_initializer), len(graph.initializer), runs(made)
    print(f"{name:28} sparse {found[0]}, dense {found[1]}, onnxruntime: {found[2]}")
    return found


def through_ir(made):
    return onnx_ir.serde.serialize_model(onnx_ir.serde.deserialize_model(made))


first = model(constant=False)
assert row("as made", first) == (1, 0, "equal to NumPy")
assert row("after onnx-ir", through_ir(first)) == (0, 0, "refuses"), "onnx-ir keeps it now"

told = "sparse" in onnx.printer.to_text(first)
print("printer mentions the values:", told)
assert not told

try:
    onnx.checker.check_model(first, full_check=True)
    raise SystemExit("the full check passes now")
except Exception as error:
    found = str(error)
    print("full_check:", found[found.index("[Shape", 1) :].strip().rstrip("."))

second = model(constant=True)
onnx.checker.check_model(second, full_check=True)
try:
    through_ir(second)
    raise SystemExit("onnx-ir reads sparse Constants now")
except onnx_ir.serde.SerdeError:
    told = "onnx-ir: SerdeError, full check passes, onnxruntime: " + runs(second)
    print(f"{'as a Constant':28} {told}")
    assert told.endswith("equal to NumPy")
PYTHON
