#!/usr/bin/env bash
# nnx.LayerNorm of float32 inputs near 3000 returns values in the thousands.
#
# Guess: a layer norm of n inputs returns nothing larger than sqrt(n - 1), 22.6 for 512, whatever it is given;
#   inputs with an offset lose a few digits at worst, as in PyTorch.
# Versions: flax 0.12.8, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU (the same on flax 0.12.12, jax 0.12.0.1).
# What happens: the variance is mean(x^2) - mean(x)^2 in float32 by default (use_fast_variance=True), in LayerNorm,
#   GroupNorm, InstanceNorm and BatchNorm. An offset of 3000 times the spread leaves nothing of it but the
#   rounding error; where that is negative it is cut to 0, and the row is divided by sqrt(epsilon) = 0.001: a
#   normalization that multiplies by 1000. At an offset of 1000 outputs are wrong by up to 0.3, unseen.
# Who is hurt: norms over raw inputs in physical units (kelvin, pascal, hertz, times), over positions of long
#   sequences, or after layers whose inputs carry an offset; weights ported from PyTorch, where it is right.
# Remedy: nnx.LayerNorm(..., use_fast_variance=False), or subtract the offset first.
#
# Output seen (spread 1, 64 rows of 512, largest error against float64 and largest output):
#            LayerNorm           use_fast_variance=False
#   offset   error     output    error     output
#   0        0.0000    4.1       0.0000    4.1
#   100      0.0030    4.1       0.0000    4.1
#   1000     0.3147    4.1       0.0001    4.1
#   3000     3983.0060 3987.1    0.0003    4.1
#   10000    3983.2501 3987.3    0.0011    4.1

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
    ml_dtypes==0.6.0 optax==0.2.8 orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import numpy as np
from flax import nnx

noise = jax.random.normal(jax.random.key(0), (64, 512))
fast = nnx.LayerNorm(512, rngs=nnx.Rngs(0))
safe = nnx.LayerNorm(512, use_fast_variance=False, rngs=nnx.Rngs(0))


def facts(norm, x):
    """The largest error against the same norm in float64, and the largest output."""
    wide = np.asarray(x, np.float64)
    centered = wide - wide.mean(1, keepdims=True)
    exact = centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-6)
    y = np.asarray(norm(x))
    return float(np.abs(y - exact).max()), float(np.abs(y).max())


print("         LayerNorm           use_fast_variance=False")
print("offset   error     output    error     output")
found = {}
for offset in (0, 100, 1000, 3000, 10000):
    one, two = found[offset] = facts(fast, noise + offset), facts(safe, noise + offset)
    print(f"{offset:<8} {one[0]:<9.4f} {one[1]:<9.1f} {two[0]:<9.4f} {two[1]:.1f}")
assert found[0][0][0] < 1e-4 and 0.01 < found[1000][0][0] < 1
assert found[3000][0][1] > 500, "the norm is bounded now"
assert all(safe[1] < 23 and safe[0] < 0.01 for _, safe in found.values())

batch = nnx.BatchNorm(512, rngs=nnx.Rngs(0))
assert float(abs(batch(noise + 3000)).max()) > 500, "BatchNorm is bounded now"
PYTHON
