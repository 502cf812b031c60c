#!/usr/bin/env bash
# OpenVINO's int8 and uint8 arithmetic stops at 127 and 255 where ONNX Runtime wraps; 255 << 4 is 255.
#
# Guess: one model gives one result. Integers wrap, as in NumPy: 100 + 100 in int8 is -56, 0 - 1 in uint8 is 255; a
#   shift of bits moves bits.
# Versions: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, on x86-64.
# What happens: OpenVINO's CPU plugin stores results of 8 bits with saturation; those of uint16 wrap.
# Who is hurt: hashes, checksums, ring counters and differences of bytes (a - b in uint8 as "distance modulo 256"),
#   codes packed by Mul 16 and Add, or BitShift; tests of a quantized model against ONNX Runtime, where saturation hides
#   an overflow that other targets will show.
# Remedy: Cast to int32 around the arithmetic, with Mod 256.
#
# Output seen:
#                          OpenVINO   ONNX Runtime   NumPy
#   100 + 100, int8        127        -56            -56
#   -128 - 1, int8         -128       127            127
#   0 - 1, uint8           0          255            255
#   100 x 100, uint8       255        16             16
#   255 << 4, uint8        255        240            240
#   0 - 1, uint16          65535      65535          65535

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnxruntime
import openvino
from onnx import helper


def both(operation, dtype, *numbers):
    arrays = [np.array([number], dtype) for number in numbers]
    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    names = [f"x{place}" for place in range(len(arrays))]
    inputs = [helper.make_tensor_value_info(name, kind, [1]) for name in names]
    node = helper.make_node(operation, names, ["y"], **({"direction": "LEFT"} if operation == "BitShift" else {}))
    graph = helper.make_graph([node], "graph", inputs, [helper.make_tensor_value_info("y", kind, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    text, feed = model.SerializeToString(), dict(zip(names, arrays))
    core = openvino.Core()
    by_openvino = core.compile_model(core.read_model(text, b""), "CPU")(feed)[0]
    by_runtime = onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    assert by_openvino.dtype == by_runtime.dtype == dtype
    by_numpy = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "BitShift": np.left_shift}[operation](*arrays)
    return [int(one.item()) for one in (by_openvino, by_runtime, by_numpy)]


cases = {
    "100 + 100, int8": both("Add", "int8", 100, 100),
    "-128 - 1, int8": both("Sub", "int8", -128, 1),
    "0 - 1, uint8": both("Sub", "uint8", 0, 1),
    "100 x 100, uint8": both("Mul", "uint8", 100, 100),
    "255 << 4, uint8": both("BitShift", "uint8", 255, 4),
    "0 - 1, uint16": both("Sub", "uint16", 0, 1),
}
print(f"{'':<23}OpenVINO   ONNX Runtime   NumPy")
for name, row in cases.items():
    print(f"{name:<23}{row[0]:<11}{row[1]:<15}{row[2]}")
assert all(row[1] == row[2] for row in cases.values()), "ONNX Runtime saturates now"
found = [row[0] for row in cases.values()]
assert found == [127, -128, 0, 255, 255, 65535], "OpenVINO wraps bytes now"
PYTHON
