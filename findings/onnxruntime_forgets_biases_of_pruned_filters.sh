#!/usr/bin/env bash
# onnxruntime's quantize_static sets the bias of a filter to 0 if the filter is pruned, with per_channel=True only.
#
# Guess: a filter of zeros is the easiest one to quantize: its output is its bias, which is kept as an int32 and so
#   nearly exact, and per_channel=True, where each filter has a scale of its own, is the more accurate setting.
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, on a CPU.
# What happens: the scale of a filter without a nonzero weight is set to 1.0 (compute_scale_zp in
#   onnxruntime/quantization/quant_utils.py), and a bias is stored as a multiple of scale(input) * scale(filter). With
#   pixels of 0 to 255 that is a step of 1, and a bias of 0.3 rounds to 0, where the other filters have a step of 1e-5.
#   With one weight left in the filter, or one scale for all of them, the bias is right. No warning.
# Who is hurt: models whose filters were pruned by zeroing them and not cut out, quantized after: the constant that a
#   pruned filter feeds into the next layer, which training relied on, is gone. Inputs in large units lose all of
#   it, inputs of 0 to 1 up to 0.002.
# Remedy: cut zero filters out and fold their biases into the next layer before quantizing; or a tiny weight in them.
#
# Output seen (a convolution over pixels of 0 to 255; every other filter is pruned, all biases are 0.3):
#   weights left  scales      bias, pruned filter  bias, other filter  largest error, pruned filter
#   0             one         0.300                0.300               0.001
#   0             per filter  0.000                0.300               0.300
#   1             one         0.300                0.300               0.008
#   1             per filter  0.300                0.300               0.006

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
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

rng = np.random.default_rng(0)
images = [rng.integers(0, 256, size=(4, 3, 16, 16)).astype(np.float32) for _ in range(8)]


class Images(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": batch} for batch in images])

    def get_next(self):
        return next(self.batches, None)


def outputs(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images[0]})[0]


def quantized(left, per_channel):
    """Float and quantized outputs, where `left` weights stay in the pruned filters, and the stored biases."""
    weight = np.random.default_rng(1).normal(scale=1e-3, size=(8, 3, 3, 3)).astype(np.float32)
    weight[::2].reshape(4, -1)[:, left:] = 0
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 14, 14])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.full(8, 0.3, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, "float.onnx")
    quantize_static(
        "float.onnx", "int8.onnx", Images(), per_channel=per_channel, weight_type=QuantType.QInt8
    )
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load("int8.onnx").graph.initializer}
    bias = stored["b_quantized"] * stored["b_quantized_scale"] * np.ones(8)
    return outputs("float.onnx")[:, ::2], outputs("int8.onnx")[:, ::2], bias


found = {}
print("weights left  scales      bias, pruned filter  bias, other filter  largest error, pruned filter")
for left in (0, 1):
    for per_channel in (False, True):
        plain, low, bias = quantized(left, per_channel)
        error = float(np.abs(plain - low).max())
        found[left, per_channel] = bias[0], error
        scales = "per filter" if per_channel else "one"
        print(f"{left:<14}{scales:<12}{bias[0]:<21.3f}{bias[1]:<20.3f}{error:.3f}")
        assert abs(bias[1] - 0.3) < 0.01

for (left, per_channel), (bias, error) in found.items():
    lost = left == 0 and per_channel
    assert (bias == 0) == lost and (error > 0.25) == lost, f"{left}, {per_channel}: {bias}, {error}"
PYTHON
