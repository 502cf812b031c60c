#!/usr/bin/env bash
# The mean of 50 million pixels is 41.6 in MLX where it is 127.5, and that of 50 million ones is 0.34.
#
# Guess: mx.mean of uint8 divides a sum that is wide enough, as in NumPy (float64), and mx.mean of float32 adds up by
#   pairs or in blocks, so that it is exact to some digits; or an overflow would give inf.
# Versions: mlx 0.32.4 with mlx-cpu, numpy 2.4.6, on an x86 CPU.
# What happens: integers are summed in 32 bits, which wrap: 50 million pixels lose 2^32, so the mean is too small by
#   85.9. Floats are summed one after the other in float32, which stops near 2^24 for terms of size 1: sum, var, norm
#   and mean of squares do the same. mx.sum of booleans counts right. Reducing one axis after the other is right.
# Who is hurt: normalization of images by the mean of the data set (CIFAR-10 has 154 million values), norms of
#   gradients and mean magnitudes of layers of 20 million weights, whose error differs from layer to layer.
# Remedy: reduce in two steps, mx.mean(mx.mean(x, axis=1)), or NumPy.
#
# Output seen (50 million values as 50000 x 1000):
#                           NumPy      MLX        MLX, axis by axis
#   mean of pixels, uint8   127.48     41.58      127.48
#   mean of pixels / 255    0.4999     0.3355     0.4999
#   mean of ones            1.0000     0.3355     1.0000
#   mean of |weights|       0.0160     0.0127     0.0160

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "mlx[cpu]==0.32.4" numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(0)
shape = (50_000, 1000)
pixels = rng.integers(0, 256, shape, dtype=np.uint8)
cases = {
    "mean of pixels, uint8": pixels,
    "mean of pixels / 255": pixels / np.float32(255),
    "mean of ones": np.ones(shape, np.float32),
    "mean of |weights|": np.abs(rng.standard_normal(shape, dtype=np.float32)) * np.float32(0.02),
}
found = {}
print(f"{'':<24}{'NumPy':<11}{'MLX':<11}MLX, axis by axis")
for name, array in cases.items():
    x = mx.array(array)
    right, whole, parts = float(array.mean(dtype=float)), mx.mean(x).item(), mx.mean(mx.mean(x, axis=1)).item()
    digits = 2 if right > 10 else 4
    print(f"{name:<24}{right:<11.{digits}f}{whole:<11.{digits}f}{parts:.{digits}f}")
    found[name] = whole / right
    assert abs(parts / right - 1) < 1e-3
wrapped = (float(pixels.sum(dtype=np.uint64) - 2**32)) / pixels.size / pixels.mean(dtype=float)
assert abs(found["mean of pixels, uint8"] - wrapped) < 1e-3, "integers are summed in more than 32 bits now"
assert found["mean of ones"] < 0.4, "floats are summed in another way now"
assert found["mean of pixels / 255"] < 0.9 and found["mean of |weights|"] < 0.9
PYTHON
