#!/usr/bin/env bash
# OpenVINO's CPU plugin gives 5 for the int64 number 2^40 + 5, and casts 3e9 to -2147483648: its int64 is int32.
#
# Guess: a model with int64 inputs and outputs works in int64: compiled ports say i64, arrays go in and come out as
#   int64, and what a device cannot do is refused when the model is compiled. float64 has 53 bits.
# Versions: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, on x86-64.
# What happens: the plugin computes i64 in i32 and f64 in f32. Inputs lose their upper half: 2^40 + 5 is 5, even in a
#   model that only gathers. Results are widened again, so the dtype is that of the
#   model. A cast of a large float stops at -2^31, which is negative for 3e9 too. Nothing warns, at compilation or
#   later. The documentation of the CPU device lists FP32 and INT32 among its precisions and none of 64 bits.
# Who is hurt: hashed features, ids of users and time in milliseconds (above 2^31), positions in a flattened matrix of
#   over 2^31 entries, sums of byte counts, seeds; models in float64 such as Gaussian processes or scalers of times.
# Remedy: split an id into two numbers below 2^31 in the model; compare with ONNX Runtime on data of real size.
#
# Output seen:
#                                   OpenVINO             ONNX Runtime
#   Gather of 2^40 + 5              5                    1099511627781
#   -(2^40 + 5)                     -5                   -1099511627781
#   (2^31 - 1) + 7                  -2147483642          2147483654
#   Cast of 3e9 to int64            -2147483648          3000000000
#   1 + 1e-12 in float64            1.0                  1.000000000001
#   dtypes of the results           int64 float64        int64 float64

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


def both(operation, *arrays, dtype, **attributes):
    names = [f"x{place}" for place in range(len(arrays))]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays)
    ]
    node = helper.make_node(operation, names, ["y"], **attributes)
    graph = helper.make_graph([node], "graph", inputs, [helper.make_tensor_value_info("y", dtype, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    text, feed = model.SerializeToString(), dict(zip(names, arrays))
    core = openvino.Core()
    by_openvino = core.compile_model(core.read_model(text, b""), "CPU")(feed)[0]
    by_runtime = onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    return by_openvino, by_runtime


LONG, DOUBLE = TensorProto.INT64, TensorProto.DOUBLE
large, zero = np.array([2**40 + 5]), np.array([0])
cases = {
    "Gather of 2^40 + 5": both("Gather", large, zero, dtype=LONG),
    "-(2^40 + 5)": both("Neg", large, dtype=LONG),
    "(2^31 - 1) + 7": both("Add", np.array([2**31 - 1]), np.array([7]), dtype=LONG),
    "Cast of 3e9 to int64": both("Cast", np.array([3e9], np.float32), dtype=LONG, to=LONG),
    "1 + 1e-12 in float64": both("Add", np.array([1.0]), np.array([1e-12]), dtype=DOUBLE),
}
print(f"{'':<32}{'OpenVINO':<21}ONNX Runtime")
for name, pair in cases.items():
    print(f"{name:<32}{pair[0].item()!s:<21}{pair[1].item()}")
dtypes = [" ".join(sorted({str(pair[side].dtype) for pair in cases.values()}, reverse=True)) for side in (0, 1)]
print(f"{'dtypes of the results':<32}{dtypes[0]:<21}{dtypes[1]}")
assert dtypes[0] == dtypes[1] == "int64 float64"
right = [2**40 + 5, -(2**40) - 5, 2**31 + 6, 3 * 10**9, 1 + 1e-12]
assert [pair[1].item() for pair in cases.values()] == right
wrong = [5, -5, 6 - 2**31, -(2**31), 1]
assert [pair[0].item() for pair in cases.values()] == wrong, "OpenVINO keeps 64 bits now"
PYTHON
