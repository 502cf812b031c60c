#!/usr/bin/env bash
# OpenVINO's Unique without sorting returns zeros after the first value, unless the indices are asked for too.
#
# Guess: the outputs of an operation do not depend on which of them are used. Unique with sorted=0 gives the values in
#   the order of their first appearance.
# Versions: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, on x86-64.
# What happens: with the values as the only output the count is right, the first value too, and all others are 0. With
#   the outputs for indices declared the values are right, as with sorted=1. ONNX lets optional outputs be left out.
# Who is hurt: the vocabulary or classes of a batch, neighbors sampled in several rounds, sets of active features, where
#   order does not matter and sorting is left out to save time: all but one become number 0, a valid one.
# Remedy: sorted=1, which is ONNX's default.
#
# Output seen:
#   input        sorted  outputs   OpenVINO   ONNX Runtime
#   5 4 3 4      0       1         5 0 0      5 4 3
#   5 4 3 4      0       4         5 4 3      5 4 3
#   5 4 3 4      1       1         3 4 5      3 4 5
#   7 7 9 7 8    0       1         7 0 0      7 9 8
#   7 7 9 7 8    0       4         7 9 8      7 9 8
#   7 7 9 7 8    1       1         7 8 9      7 8 9

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


def both(numbers, order, count):
    names = ["y", "first", "inverse", "counts"][:count]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if place else TensorProto.FLOAT, [None])
        for place, name in enumerate(names)
    ]
    node = helper.make_node("Unique", ["x"], names, sorted=order)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(numbers)])
    graph = helper.make_graph([node], "graph", [x], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    text, feed = model.SerializeToString(), {"x": np.array(numbers, np.float32)}
    core = openvino.Core()
    by_openvino = core.compile_model(core.read_model(text, b""), "CPU")(feed)[0]
    by_runtime = onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    return [[int(number) for number in one] for one in (by_openvino, by_runtime)]


def text(numbers):
    return " ".join(map(str, numbers))


print("input        sorted  outputs   OpenVINO   ONNX Runtime")
for numbers in ([5, 4, 3, 4], [7, 7, 9, 7, 8]):
    for order, count in ((0, 1), (0, 4), (1, 1)):
        found, right = both(numbers, order, count)
        print(f"{text(numbers):<13}{order:<8}{count:<10}{text(found):<11}{text(right)}")
        assert right == (sorted(set(numbers)) if order else list(dict.fromkeys(numbers)))
        if (order, count) == (0, 1):
            assert found == [numbers[0]] + [0] * (len(right) - 1), "the values are all there now"
        else:
            assert found == right
PYTHON
