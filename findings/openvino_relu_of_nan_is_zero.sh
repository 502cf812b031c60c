#!/usr/bin/env bash
# OpenVINO hides NaN: ReLU makes it 0, HardSigmoid 1 and Exp infinity, and a maximum passes it over.
#
# Guess: NaN goes through a network, so that a bad input or a diverged weight is seen at the output, as in ONNX Runtime.
# Versions: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, on x86-64.
# What happens: Relu, HardSigmoid, Exp and ReduceMax end at a number, Max where NaN is its first operand; Sigmoid keeps
#   NaN, Softmax in its own place only. So it depends on the activation whether a broken model looks healthy.
# Who is hurt: checks such as isnan(output) in monitoring; missing features coded as NaN, which become 0 after the first
#   layer and are then scored with confidence; a pruned filter with a division 0 / 0 in its folded batch norm.
# Remedy: IsNaN on the input and the weights before the conversion.
#
# Output seen (operation on NaN, -1, 2):
#                          OpenVINO        ONNX Runtime
#   Relu                   0 0 2           nan 0 2
#   HardSigmoid            1 0.3 0.9       nan 0.3 0.9
#   Exp                    inf 0.37 7.4    nan 0.37 7.4
#   Softmax                nan 0 0         nan nan nan
#   Max with 1, 1, nan     1 1 nan         nan 1 nan
#   ReduceMax              2               nan
#   Sigmoid                nan 0.27 0.88   nan 0.27 0.88

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper


def both(operation, *arrays, **attributes):
    names = [f"x{place}" for place in range(len(arrays))]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in names]
    node = helper.make_node(operation, names, ["y"], **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "graph", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    text, feed = model.SerializeToString(), dict(zip(names, arrays))
    core = openvino.Core()
    by_openvino = core.compile_model(core.read_model(text, b""), "CPU")(feed)[0]
    by_runtime = onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    return [" ".join(f"{number:.2g}" for number in one.ravel()) for one in (by_openvino, by_runtime)]


x = np.array([np.nan, -1, 2], np.float32)
found = {
    "Relu": both("Relu", x),
    "HardSigmoid": both("HardSigmoid", x),
    "Exp": both("Exp", x),
    "Softmax": both("Softmax", x, axis=0),
    "Max with 1, 1, nan": both("Max", x, np.array([1, 1, np.nan], np.float32)),
    "ReduceMax": both("ReduceMax", x, keepdims=0),
    "Sigmoid": both("Sigmoid", x),
}
print(f"{'':<23}OpenVINO        ONNX Runtime")
for name, pair in found.items():
    print(f"{name:<23}{pair[0]:<16}{pair[1]}")
assert all("nan" in right for _, right in found.values()), "ONNX Runtime hides NaN now"
hidden = [name for name, (one, _) in found.items() if "nan" not in one]
assert hidden == ["Relu", "HardSigmoid", "Exp", "ReduceMax"], "OpenVINO keeps NaN now"
assert found["Relu"][0] == "0 0 2" and found["Softmax"][0] == "nan 0 0"
assert found["Max with 1, 1, nan"] == ["1 1 nan", "nan 1 nan"]
assert found["Sigmoid"][0] == found["Sigmoid"][1]
PYTHON
