#!/usr/bin/env bash
# The answer of a model quantized by onnxruntime's quantize_dynamic depends on who else is in the batch.
#
# Guess: at inference the rows of a batch do not know of each other, so an example alone and in a batch gets the same
#   output up to rounding; "dynamic" means that each example is quantized by its own range.
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, on a CPU.
# What happens: DynamicQuantizeLinear, as ONNX defines it, takes one minimum and one maximum over the whole tensor,
#   batch and time steps together, and quantize_dynamic puts one in front of each product. One row with large inputs
#   sets the step for all: next to a row 100 times as large an example has three or four levels left, next to one 1000
#   times as large it is 0, and the output is the bias. Nothing is raised, and the error is not there when the
#   example is tried alone.
# Who is hurt: servers that put requests together in batches: one user's input changes another user's answer, and no
#   answer can be repeated. An accuracy measured in batches depends on their size and order.
# Remedy: quantize_static, whose range is fixed; a batch of one; or inputs that are normalized row by row.
#
# Output seen (a layer of 64 inputs; error of the first row's output, relative to its largest, by its neighbor):
#   neighbor is        float    quantize_dynamic  quantize_static
#   absent              0.0000   0.0213            0.0158
#   1 times as large    0.0000   0.0174            0.0158
#   10 times as large   0.0000   0.0368            0.0158
#   100 times as large  0.0000   0.3613            0.0158
#   1000 times as large 0.0000   1.0000            0.0158

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

rng = np.random.default_rng(0)
weight = rng.normal(size=(64, 8)).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
    "layer",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
    [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(8, np.float32), "b")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "float.onnx")


class Examples(CalibrationDataReader):
    """Batches of the distribution that the first row is from."""

    def __init__(self):
        self.batches = iter([{"x": rng.normal(size=(64, 64)).astype(np.float32)} for _ in range(8)])

    def get_next(self):
        return next(self.batches, None)


quantize_dynamic("float.onnx", "dynamic.onnx")
quantize_static("float.onnx", "static.onnx", Examples(), weight_type=QuantType.QInt8)
models = {
    name: onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
    for name in ("float", "dynamic", "static")
}
row, neighbor = rng.normal(size=(2, 1, 64)).astype(np.float32)
true = (row @ weight)[0]
errors = {}
print("neighbor is        float    quantize_dynamic  quantize_static")
for times in (None, 1, 10, 100, 1000):
    batch = row if times is None else np.concatenate([row, times * neighbor])
    errors[times] = [
        float(np.abs(model.run(None, {"x": batch})[0][0] - true).max() / np.abs(true).max())
        for model in models.values()
    ]
    who = "absent" if times is None else f"{times} times as large"
    print(f"{who:<20}{errors[times][0]:<9.4f}{errors[times][1]:<18.4f}{errors[times][2]:.4f}")

for times, (plain, dynamic, static) in errors.items():
    assert plain < 1e-5 and static < 0.05, f"{times}: float or static depends on the neighbor"
    assert dynamic < 0.03 if times in (None, 1) else dynamic > 0.0025 * times**0.5, f"{times}: {dynamic}"
assert errors[1000][1] == 1.0 and errors[100][1] > 0.2, "the rows do not share a scale any more"
PYTHON
