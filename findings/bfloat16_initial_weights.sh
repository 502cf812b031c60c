#!/usr/bin/env bash
# A Flax layer made in bfloat16 starts with 128 different weights, and some are exactly zero.
#
# Guess: bfloat16 has 65536 bit patterns, so a million random weights in param_dtype=bfloat16 take
#   thousands of values, hardly any is 0, and ranking |w| is as good as in float32 up to a few ties.
# Versions: flax 0.12.8, jax 0.10.2, jaxlib 0.10.2, on a CPU.
# What happens: the initializers transform jax.random.uniform in the parameter's type, which has 128
#   values in bfloat16 (1024 in float16), so the whole kernel has 128 values. One of them is exactly
#   0 for lecun_normal, the default: 0.78 % of the weights, which any count of `w != 0` takes for pruned.
#   Magnitudes are tied in groups of 0.78 % or 1.6 % of all weights: `|w| >= threshold` keeps 8 times
#   what was asked at density 0.1 %, and `>` keeps none.
# Who is hurt: pruning at initialization by magnitude, lottery tickets and random networks without
#   training; measured density; a top-k that breaks ties by position.
# Remedy: initialize in float32 and cast, e.g. a kernel_init that ends with astype(bfloat16).
#
# Output seen:
#   kernel of a million        values   zeros     |w| >= t  |w| > t, for 0.1 % kept
#   float32                    942599   0.0000%   0.1001%   0.0998%
#   float16                    1024     0.1004%   0.2901%   0.0976%
#   bfloat16                   128      0.7825%   0.7837%   0.0000%
#   float32 cast to bfloat16   3297     0.0000%   0.1185%   0.0000%

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
    ml_dtypes==0.6.0 optax==0.2.8 orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
from flax import nnx

ASKED = 0.001
lecun = nnx.initializers.lecun_normal()


def cast(key, shape, dtype, **options):
    return lecun(key, shape, jnp.float32).astype(dtype)


def facts(name, dtype, init=lecun):
    layer = nnx.Linear(1000, 1000, param_dtype=dtype, kernel_init=init, rngs=nnx.Rngs(0))
    weight = np.asarray(layer.kernel[...].astype(jnp.float32))
    size = np.abs(weight)
    threshold = np.sort(size, axis=None)[::-1][int(ASKED * size.size) - 1]
    values, zeros = len(np.unique(weight)), np.mean(weight == 0)
    closed, open_ = np.mean(size >= threshold), np.mean(size > threshold)
    print(f"{name:<26} {values:<8} {zeros:<9.4%} {closed:<9.4%} {open_:.4%}")
    return values, zeros, closed, open_


print("kernel of a million        values   zeros     |w| >= t  |w| > t, for 0.1 % kept")
single = facts("float32", jnp.float32)
facts("float16", jnp.float16)
brain = facts("bfloat16", jnp.bfloat16)
later = facts("float32 cast to bfloat16", jnp.bfloat16, cast)

assert single[0] > 900_000 and single[1] == 0
assert brain[0] == 128, "a bfloat16 kernel no longer has 128 values"
assert brain[1] > 0.007, "a bfloat16 kernel no longer starts with zeros"
assert brain[2] > 0.007 and brain[3] == 0, "the ties are gone"
assert later[0] > 1000 and later[1] == 0
PYTHON
