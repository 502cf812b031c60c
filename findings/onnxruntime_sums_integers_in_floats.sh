#!/usr/bin/env bash
# ONNX Runtime sums int64 as float64: the sum of one identifier and zeros is another identifier.
#
# Guess: ReduceSum of int64 gives int64 and is computed in it, exactly, as Add, CumSum and MatMul are; a sum that has a
#   single term is that term.
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, on a CPU.
# What happens: the result has 53 bits, on every axis and with and without graph optimizations; ReduceL1 and ReduceProd
#   do the same. ReduceMax, ReduceMin, Add, CumSum and MatMul are exact, and so is ONNX's reference evaluator. In int32
#   a sum that is too large stays at 2147483647, where NumPy, PyTorch and the reference wrap around.
# Who is hurt: models that pick an identifier, a hash, a packed mask of 64 bits or a time in nanoseconds by a one-hot
#   product and a sum, as exporters write indexing; checksums; sums of products modulo 2^32. Above 9e15 the result is a
#   neighbor, of the right type and nearly the right size.
# Remedy: Gather for the choice, or MatMul with a vector of ones for the sum.
#
# Output seen:
#   number                 one-hot and sum        matmul                 reference's sum
#   9007199254740993       9007199254740992       9007199254740993       9007199254740993
#   1788000000123456789    1788000000123456768    1788000000123456789    1788000000123456789
#   4611686018427387905    4611686018427387904    4611686018427387905    4611686018427387905
#   int32, 3 * 2^30: ONNX Runtime 2147483647, reference -1073741824

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator


def run(nodes, kind, arrays):
    inputs = [helper.make_tensor_value_info(name, kind, array.shape) for name, array in arrays.items()]
    output = helper.make_tensor_value_info("y", kind, [None, 1])
    graph = helper.make_graph([axis, *nodes], "sum", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, arrays)[0].ravel(), ReferenceEvaluator(model).run(None, arrays)[0].ravel()


one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
axis = helper.make_node("Constant", [], ["axis"], value=one)
total = helper.make_node("ReduceSum", ["p", "axis"], ["y"])
product = helper.make_node("Mul", ["x", "hot"], ["p"])
numbers = np.array([2**53 + 1, 1788000000123456789, 2**62 + 1])
hot = np.eye(3, dtype=np.int64)
x = np.tile(numbers, (3, 1))
summed, reference = run([product, total], TensorProto.INT64, {"x": x, "hot": hot})
times = helper.make_node("MatMul", ["p", "ones"], ["y"])
ones = np.ones((3, 1), np.int64)
matmul, _ = run([product, times], TensorProto.INT64, {"x": x, "hot": hot, "ones": ones})
print(f"{'number':<23}{'one-hot and sum':<23}{'matmul':<23}reference's sum")
for row in zip(numbers, summed, matmul, reference):
    print(f"{row[0]:<23}{row[1]:<23}{row[2]:<23}{row[3]}")
large = np.full((1, 3), 2**30, np.int32)
kept, wrapped = run([total], TensorProto.INT32, {"p": large})
print(f"int32, 3 * 2^30: ONNX Runtime {kept[0]}, reference {wrapped[0]}")
assert np.array_equal(matmul, numbers) and np.array_equal(reference, numbers)
assert wrapped[0] == large.sum(dtype=np.int32)
assert np.array_equal(summed, numbers.astype(np.float64).astype(np.int64)), "sums of int64 are exact now"
PYTHON
