#!/usr/bin/env bash
# OpenVINO divides and compares int32 numbers in float32: 123456789 / 3 is 41152264, and 16777217 is even.
#
# Guess: integer operations are exact, as OpenVINO's own Add and Mul of int32 are; Div truncates, Mod is the remainder.
# Versions: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, on x86-64.
# What happens: Add and Mul are exact. Div, Mod, Equal and ReduceMax convert to float32, which keeps 24 bits, and back,
#   with int32 at both ends. Operands below 2^24 are right.
# Who is hurt: positions in a flattened tensor taken apart by Div and Mod, hashes modulo a table's size, dates as
#   seconds, ids compared with Equal: two ids above 16.7 million that follow each other are "equal".
# Remedy: take large numbers apart before the model, or keep them below 2^24.
#
# Output seen (int32):
#                              OpenVINO    ONNX Runtime
#   123456789 / 3              41152264    41152263
#   16777217 mod 2             0           1
#   16777217 == 16777216       True        False
#   largest of 16777217, 5     16777216    16777217
#   123456789 + 3              123456792   123456792
#   123456789 x 3              370370367   370370367

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


def both(operation, *lists, kind=TensorProto.INT32, **attributes):
    arrays = [np.array(numbers, np.int32) for numbers in lists]
    names = [f"x{place}" for place in range(len(arrays))]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32, array.shape) for name, array in zip(names, arrays)
    ]
    node = helper.make_node(operation, names, ["y"], **attributes)
    graph = helper.make_graph([node], "graph", inputs, [helper.make_tensor_value_info("y", kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    text, feed = model.SerializeToString(), dict(zip(names, arrays))
    core = openvino.Core()
    by_openvino = core.compile_model(core.read_model(text, b""), "CPU")(feed)[0]
    by_runtime = onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    assert by_openvino.dtype == by_runtime.dtype
    return [one.item() for one in (by_openvino, by_runtime)]


found = {
    "123456789 / 3": both("Div", [123456789], [3]),
    "16777217 mod 2": both("Mod", [16777217], [2]),
    "16777217 == 16777216": both("Equal", [16777217], [16777216], kind=TensorProto.BOOL),
    "largest of 16777217, 5": both("ReduceMax", [16777217, 5], keepdims=0),
    "123456789 + 3": both("Add", [123456789], [3]),
    "123456789 x 3": both("Mul", [123456789], [3]),
}
print(f"{'':<27}OpenVINO    ONNX Runtime")
for name, pair in found.items():
    print(f"{name:<27}{pair[0]!s:<12}{pair[1]}")
right = [41152263, 1, False, 16777217, 123456792, 370370367]
assert [pair[1] for pair in found.values()] == right
wrong = [41152264, 0, True, 16777216, 123456792, 370370367]
assert [pair[0] for pair in found.values()] == wrong, "OpenVINO's integers are exact now"
PYTHON
