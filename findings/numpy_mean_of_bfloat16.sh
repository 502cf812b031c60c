#!/usr/bin/env bash
# NumPy's mean of 4096 ones is 0.0625 when they are bfloat16.
#
# Guess: jnp.mean(x) and np.asarray(x).mean() agree up to rounding for every float dtype: NumPy adds in pairs,
#   and for float16 it adds in float32.
# Versions: numpy 2.4.6, ml_dtypes 0.6.0, jax 0.10.2, jaxlib 0.10.2.
# What happens: bfloat16 reaches NumPy as a dtype of the package ml_dtypes. NumPy's pairwise sums and its wider sum
#   for float16 are for its own dtypes; here it adds one number after another and rounds to bfloat16 each time.
#   A sum of ones stays at 256 for ever, along any axis, and in float8_e4m3fn at 16. Means of other numbers are
#   too small by a factor that grows with the array. There is no warning. The norm, the maximum and
#   count_nonzero are right.
# Who is hurt: whoever takes arrays of a bfloat16 model to the host to print them: densities of masks, mean |w|,
#   mean losses. The same line is right in float32 and float16.
# Remedy: x.mean(dtype=np.float32), or jnp.mean before leaving JAX.
#
# Output seen:
#                                      float32    float16    bfloat16   bfloat16 in JAX
#   mean of 4096 ones                  1          1          0.0625     1
#   mean of 300 ones                   1          1          0.8516     1
#   density of a mask, 512 x 512, 0.3  0.3002     0.3003     0.0009766  0.3008
#   mean |w| of a kernel, 512 x 512    0.03524    0.03525    0.0002441  0.03516

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

keys = jax.random.split(jax.random.key(0))
arrays = {
    "mean of 4096 ones": jnp.ones(4096),
    "mean of 300 ones": jnp.ones(300),
    "density of a mask, 512 x 512, 0.3": jax.random.bernoulli(keys[0], 0.3, (512, 512)),
    "mean |w| of a kernel, 512 x 512": jnp.abs(jax.random.normal(keys[1], (512, 512))) / 512**0.5,
}
print(f"{'':<34} float32    float16    bfloat16   bfloat16 in JAX")
found = {}
for name, array in arrays.items():
    row = [float(np.asarray(array.astype(t)).mean()) for t in (jnp.float32, jnp.float16, jnp.bfloat16)]
    row.append(float(jnp.mean(array.astype(jnp.bfloat16))))
    wide = float(np.asarray(array.astype(jnp.bfloat16)).mean(dtype=np.float32))
    found[name] = row
    print(f"{name:<34} " + " ".join(f"{number:<10.4g}" for number in row).rstrip())
    assert abs(wide / row[0] - 1) < 0.01, "the remedy is none"

assert found["mean of 4096 ones"][2] == 0.0625, "NumPy adds bfloat16 in another way now"
for exact, half, brain, ours in found.values():
    assert abs(half / exact - 1) < 0.01 and abs(ours / exact - 1) < 0.01
    assert brain < 0.9 * exact, "NumPy's means of bfloat16 are right now"
PYTHON
