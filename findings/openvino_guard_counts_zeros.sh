#!/usr/bin/env bash
# OpenVINO protects small weights from float16 when a layer is dense, not when it is pruned.
#
# Guess: save_model writes weights in float16 by default, except where a constant does not fit into it;
#   so pruning, which leaves the large weights alone, never makes a layer worse.
# Versions: openvino 2026.4.1, numpy 2.4.6, on a CPU, computing in float32.
# What happens: a constant stays float32 only if three quarters of all its entries would be damaged, and
#   a zero counts as undamaged. With a quarter of zeros the check cannot fire any more: the dense
#   layer is exact, and the same layer with its smallest weights removed has kept weights rounded by
#   percents or, below 3e-8, to zero. No warning; the model loads and answers.
# Who is hurt: pruned models with small weights in one layer: inputs in large units (hertz, pascal, cells
#   per volume), or a normalization of such inputs folded into the first layer.
# Remedy: ov.save_model(model, path, compress_to_fp16=False), or keep the scale out of the pruned weight.
#
# Output seen:
#   weights  kept  type in the file  density in the file  error of the output
#   1e-02    1.0   f16               1.0000               0.0209%
#   1e-02    0.5   f16               0.5000               0.0208%
#   1e-02    0.1   f16               0.1000               0.0215%
#   1e-06    1.0   f32               1.0000               0.0000%
#   1e-06    0.5   f16               0.5000               1.2718%
#   1e-06    0.1   f16               0.1000               0.8047%
#   1e-07    1.0   f32               1.0000               0.0000%
#   1e-07    0.5   f16               0.5000               13.0584%
#   1e-07    0.1   f16               0.1000               7.2478%
#   1e-09    1.0   f32               1.0000               0.0000%
#   1e-09    0.5   f16               0.0000               100.0000%
#   1e-09    0.1   f16               0.0000               100.0000%

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/model.xml" <<'PYTHON'
import sys

import numpy as np
import openvino as ov
from openvino import opset13 as ops

rng = np.random.default_rng(0)
dense = rng.normal(size=(512, 512))
x = rng.normal(size=(8, 512)).astype(np.float32)


def saved(weight):
    """The constant's type in the file, its density, and the error of x @ weight."""
    parameter = ops.parameter([-1, 512], np.float32)
    product = ops.matmul(parameter, ops.constant(weight), False, False)
    ov.save_model(ov.Model([product], [parameter]), sys.argv[1])
    core = ov.Core()
    model = core.read_model(sys.argv[1])
    (constant,) = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    density = np.count_nonzero(constant.data) / constant.data.size
    y = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    exact = x @ weight
    error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
    return constant.get_element_type().get_type_name(), density, error


print("weights  kept  type in the file  density in the file  error of the output")
found = {}
for scale in (1e-2, 1e-6, 1e-7, 1e-9):
    for kept in (1.0, 0.5, 0.1):
        threshold = np.quantile(np.abs(dense), 1 - kept)
        weight = (np.where(np.abs(dense) >= threshold, dense, 0) * scale).astype(np.float32)
        kind, density, error = found[scale, kept] = saved(weight)
        print(f"{scale:<8.0e} {kept:<5} {kind:<17} {density:<20.4f} {error:.4%}")

for (scale, kept), (kind, _, error) in found.items():
    if scale == 1e-2:
        assert kind == "f16" and error < 1e-3
    elif kept == 1:
        assert kind == "f32" and error < 1e-5, "dense weights are compressed now"
    else:
        assert kind == "f16" and error > 5e-3, "pruned weights are protected now"
assert found[1e-9, 0.5][1] == 0
PYTHON
