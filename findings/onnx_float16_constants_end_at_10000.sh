#!/usr/bin/env bash
# onnxconverter-common's convert_float_to_float16 makes a constant of 32768 one of 10000.
#
# Guess: each weight and constant is rounded to float16, whose largest number is 65504, so 32768 stays exact and tiny
#   weights become 0.
# Versions: onnxconverter-common 1.16.0, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6.
# What happens: the defaults are max_finite_val=1e4 and min_positive_val=1e-7. What is larger becomes 10000, and what is
#   smaller but not 0 becomes 1.2e-7, where rounding gives 0 below 3e-8: weights that training has driven to 1e-30
#   come back larger by 23 orders. A warning says "truncated", as if float16 ended there. The function of the same
#   name in onnxruntime.transformers.float16 has 65504 and 5.96e-8, and raises tiny numbers as well.
# Who is hurt: models with a large constant inside: audio scaled by 32768 for filter banks, timestamps, positions.
# Remedy: max_finite_val=65504.0, and set small weights to 0 before the conversion.
#
# Output seen (the model is y = constant * x):
#   constant  rounded to float16  onnxconverter-common  onnxruntime
#   9000      9000                9000                  9000
#   32768     32768               10000                 32768
#   65504     65504               10000                 65504
#   0         0                   0                     0
#   1e-08     0                   1.19209e-07           5.96046e-08
#   1e-30     0                   1.19209e-07           5.96046e-08

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxconverter-common==1.16.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import onnxconverter_common.float16
import onnxruntime.transformers.float16
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def model(constant):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    initial = numpy_helper.from_array(np.array([constant], np.float32), "constant")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "constant"], ["y"])], "scale", [x], [y], [initial])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def answer(proto, x):
    session = ReferenceEvaluator(proto)
    kind = helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    return float(session.run(None, {"x": np.array([x], kind)})[0][0])


converters = {
    "onnxconverter-common": onnxconverter_common.float16.convert_float_to_float16,
    "onnxruntime": onnxruntime.transformers.float16.convert_float_to_float16,
}
found = {}
print("constant  rounded to float16  onnxconverter-common  onnxruntime")
for constant in (9000.0, 32768.0, 65504.0, 0.0, 1e-8, 1e-30):
    assert np.isclose(answer(model(constant), 1), constant)
    for name, convert in converters.items():
        converted = convert(model(constant))
        assert converted.graph.initializer[0].data_type == TensorProto.FLOAT16
        found[constant, name] = answer(converted, 1)
    got = [f"{found[constant, name]:g}" for name in converters]
    print(f"{constant:<10g}{float(np.float16(constant)):<20g}{got[0]:<22}{got[1]}")

assert found[32768.0, "onnxconverter-common"] == 10000 == found[65504.0, "onnxconverter-common"]
assert found[32768.0, "onnxruntime"] == 32768
assert found[9000.0, "onnxconverter-common"] == 9000 and found[0.0, "onnxconverter-common"] == 0
for constant in (1e-8, 1e-30):
    assert np.float16(constant) == 0 and found[constant, "onnxconverter-common"] > 1e-7
explicit = converters["onnxconverter-common"](model(32768.0), max_finite_val=65504.0)
assert answer(explicit, 1) == 32768
PYTHON
