#!/usr/bin/env bash
# LpNormalization with p=1 divides by the sum with its signs in ONNX's reference evaluator: 3, -4 becomes -3, 4.
#
# Guess: onnx.reference is what an operator means, in NumPy, and others are tested against it. The L1 norm is the sum of
#   magnitudes, as in ONNX Runtime: after the operator the magnitudes of a row add up to 1.
# Versions: onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, on a CPU.
# What happens: the norm is sum(x ** p) ** (1 / p) without abs (op_lp_normalization.py in onnx/reference/ops), which is
#   the norm for p=2, the default, and for rows without negative entries. A row with a negative sum changes its signs,
#   one whose sum is nearly 0 is blown up, one whose sum is 0 becomes 0.
# Who is hurt: whoever checks an exported model, a backend or a pruned copy by the reference evaluator: the error is
#   looked for in the right one. And models that are run by it: weights, scores and shares of either sign.
# Remedy: write the norm as ReduceL1, which takes magnitudes in both, and Div.
#
# Output seen:
#   row             reference            ONNX Runtime         ReduceL1 and Div, reference
#   3, 4            0.43, 0.57           0.43, 0.57           0.43, 0.57
#   3, -4           -3.00, 4.00          0.43, -0.57          0.43, -0.57
#   3, -2.999       3000.22, -2999.22    0.50, -0.50          0.50, -0.50
#   3, -3           0.00, 0.00           0.50, -0.50          0.50, -0.50

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


def model(nodes):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy")
    graph = helper.make_graph(nodes, "norm", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(made, full_check=True)
    return made


norm = model([helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=1)])
parts = [helper.make_node("ReduceL1", ["x"], ["n"], axes=[1]), helper.make_node("Div", ["x", "n"], ["y"])]
rows = np.array([[3, 4], [3, -4], [3, -2.999], [3, -3]], np.float32)
reference = ReferenceEvaluator(norm).run(None, {"x": rows})[0]
session = onnxruntime.InferenceSession(norm.SerializeToString(), providers=["CPUExecutionProvider"])
runtime = session.run(None, {"x": rows})[0]
remedy = ReferenceEvaluator(model(parts)).run(None, {"x": rows})[0]
print(f"{'row':<16}{'reference':<21}{'ONNX Runtime':<21}ReduceL1 and Div, reference")
for index, row in enumerate(rows):
    cells = [", ".join(f"{value:.2f}" for value in one[index]) for one in (reference, runtime, remedy)]
    print(f"{', '.join(f'{value:g}' for value in row):<16}{cells[0]:<21}{cells[1]:<21}{cells[2]}")
right = rows / np.abs(rows).sum(axis=1, keepdims=True)
assert np.allclose(runtime, right, atol=1e-6) and np.allclose(remedy, right, atol=1e-6)
assert np.allclose(reference[0], right[0], atol=1e-6)
assert np.allclose(reference[1], [-3, 4]) and not reference[3].any(), "the reference takes magnitudes now"
PYTHON
