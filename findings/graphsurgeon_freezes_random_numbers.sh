#!/usr/bin/env bash
# ONNX-GraphSurgeon's fold_constants replaces a random node by one draw: every call has the same noise.
#
# Guess: constant folding computes in advance what is the same in every run; RandomNormal, Bernoulli and Dropout in
#   training mode are not, and stay, as with onnxsim and the optimizer of ONNX Runtime.
# Versions: onnx-graphsurgeon 0.6.1, onnxsim 0.8.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6.
# What happens: every node whose inputs are all constants is run once in ONNX Runtime and replaced by the result
#   (onnx_graphsurgeon/ir/graph.py, fold_constants); a node with no inputs at all, such as RandomNormal, counts as well.
#   The docstring has no word on random operations, nothing warns, and shapes and types are as before. Nodes that depend
#   on an input of the graph stay.
# Who is hurt: samplers (VAE, diffusion, stochastic policies) exported with a fixed shape of noise, and dropout or
#   DropConnect of weights for Monte Carlo uncertainty: all samples are alike, so the variance is 0.
# Remedy: should_exclude_node=lambda node: node.op in {...}, or the noise as an input of the model.
#
# Output seen (are two calls of the model different?):
#                      as exported   onnxsim   fold_constants
#   RandomNormal       True          True      False
#   RandomUniform      True          True      False
#   RandomNormalLike   True          True      False
#   Bernoulli          True          True      False
#   Dropout            True          True      False

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx-graphsurgeon==0.6.1 onnxsim==0.8.1 onnx==1.23.2 onnxruntime==1.32.0 \
    numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnx_graphsurgeon
import onnxruntime
import onnxsim
from onnx import TensorProto, helper, numpy_helper

SIZE = 64
constants = [
    numpy_helper.from_array(np.full(SIZE, 0.5, np.float32), "half"),
    numpy_helper.from_array(np.float32(0.5), "ratio"),
    numpy_helper.from_array(np.array(True), "training"),
]
nodes = {
    "RandomNormal": ([], {"shape": [SIZE]}),
    "RandomUniform": ([], {"shape": [SIZE]}),
    "RandomNormalLike": (["half"], {}),
    "Bernoulli": (["half"], {}),
    "Dropout": (["half", "ratio", "training"], {}),
}


def varies(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first, second = (session.run(None, {"x": np.zeros(SIZE, np.float32)})[0] for _ in range(2))
    return not np.array_equal(first, second)


print(f"{'':<19}as exported   onnxsim   fold_constants")
for name, (inputs, attributes) in nodes.items():
    noise = helper.make_node(name, inputs, ["noise"], **attributes)
    x, y = (helper.make_tensor_value_info(one, TensorProto.FLOAT, [SIZE]) for one in "xy")
    used = [one for one in constants if one.name in inputs]
    graph = helper.make_graph([noise, helper.make_node("Add", ["x", "noise"], ["y"])], "graph", [x], [y], used)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folded = onnx_graphsurgeon.import_onnx(model)
    folded.fold_constants().cleanup()
    found = varies(model), varies(onnxsim.simplify(model)[0]), varies(onnx_graphsurgeon.export_onnx(folded))
    print(f"{name:<19}{found[0]!s:<14}{found[1]!s:<10}{found[2]}")
    assert found[:2] == (True, True), name
    assert not found[2], f"{name} stays random now"
PYTHON
