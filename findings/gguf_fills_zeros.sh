#!/usr/bin/env bash
# GGUF's Q4_1 and Q5_1 turn the zeros of a pruned weight into nonzeros; Q4_0, Q5_0 and MXFP4 keep them.
#
# Guess: an asymmetric quantizer has a zero point on the grid, so that 0 is exact (as in ONNX, TFLite and
#   PyTorch), and Q4_1 and Q5_1, having one more parameter per block, are safer than Q4_0.
# Versions: gguf 0.19.0, numpy 2.4.6 (gguf's own quantizer in Python; the format is llama.cpp's).
# What happens: a block of 32 stores its minimum m and a step d in float16, and a weight is d * q + m with
#   integer q: there is no zero point, so 0 is on the grid only by chance or where the minimum is 0.
#   A weight with 50 % zeros comes back with 99.9 % nonzeros, and of the 2:4 groups 0.2 % survive; all
#   zeros of a block get the same offset. The formats without a minimum keep every zero.
# Who is hurt: exports of pruned or N:M sparse models, whose sparsity, and any later bitmask or
#   sparse kernel, is lost in the file.
# Remedy: Q4_0, Q5_0, Q8_0 or MXFP4 for pruned weights.
#
# Output seen:
#   format  density of 50 % pruned  2:4 groups intact  density of 90 % pruned
#   Q8_0    0.5000                  1.0000             0.1000
#   MXFP4   0.5000                  1.0000             0.1000
#   Q5_0    0.5000                  1.0000             0.1000
#   Q5_1    0.9988                  0.0024             0.8124
#   Q4_0    0.5000                  1.0000             0.1000
#   Q4_1    0.9989                  0.0023             0.8091

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import gguf
import numpy as np


def back(w, name):
    kind = gguf.GGMLQuantizationType[name]
    return gguf.dequantize(gguf.quantize(w, kind), kind)


weight = np.random.default_rng(0).normal(size=(256, 1024)).astype(np.float32)
size = np.abs(weight)
found = {}
print("format  density of 50 % pruned  2:4 groups intact  density of 90 % pruned")
for name in ("Q8_0", "MXFP4", "Q5_0", "Q5_1", "Q4_0", "Q4_1"):
    half, tenth = (back(np.where(size > np.quantile(size, q), weight, 0), name) for q in (0.5, 0.9))
    groups = weight.reshape(-1, 4)
    rank = np.argsort(np.argsort(np.abs(groups), axis=1), axis=1)
    pairs = back(np.where(rank >= 2, groups, 0).reshape(weight.shape), name).reshape(-1, 4)
    intact = np.mean(np.count_nonzero(pairs, axis=1) <= 2)
    found[name] = np.mean(half != 0), intact, np.mean(tenth != 0)
    print(f"{name:<7} {found[name][0]:<23.4f} {found[name][1]:<18.4f} {found[name][2]:.4f}")

for name in ("Q8_0", "MXFP4", "Q5_0", "Q4_0"):
    assert found[name][0] <= 0.5 and found[name][1] == 1, f"{name} no longer keeps zeros"
for name in ("Q5_1", "Q4_1"):
    assert found[name][0] > 0.9 and found[name][1] < 0.1, f"{name} keeps zeros now"
PYTHON
