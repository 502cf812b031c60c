#!/usr/bin/env bash
# A random mask drawn with bfloat16 probabilities does not have that density.
#
# Guess: jax.random.bernoulli(key, p) is True with probability p, up to the rounding of p to
#   bfloat16, which is at most 0.4 % of p. So p = 0.001 keeps 0.1 % of a million entries.
# Versions: jax 0.10.2, jaxlib 0.10.2, on a CPU.
# What happens: bernoulli compares p with a uniform number of p's own type, and jax.random.uniform
#   has only 128 values in bfloat16 (1024 in float16): 0, 1/128, 2/128, ... Every density is rounded
#   up to the next multiple of 1/128, so none is below 0.78 %, and anything that bfloat16 holds above
#   127/128 prunes nothing. The same holds for `uniform(key, shape, p.dtype) < p`.
# Who is hurt: stochastic masks, L0 gates and random growth in a bfloat16 model,
#   most of all at the densities that sparse training is about.
# Remedy: p.astype(float32), or mode="high".
#
# Output seen:
#   asked    float32   float16   bfloat16  bfloat16, mode="high"
#   0.0001   0.00009   0.00103   0.00785   0.00013
#   0.001    0.00097   0.00197   0.00785   0.00106
#   0.01     0.01010   0.01063   0.01559   0.00998
#   0.05     0.04976   0.05059   0.05473   0.05007
#   0.995    0.99503   0.99505   1.00000   0.99610

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

SIZE = 1_000_000


def density(p, dtype, **options):
    mask = jax.random.bernoulli(jax.random.key(1), jnp.full(SIZE, p, dtype), **options)
    return jnp.count_nonzero(mask) / SIZE


print('asked    float32   float16   bfloat16  bfloat16, mode="high"')
for asked in (0.0001, 0.001, 0.01, 0.05, 0.995):
    single, half, brain = (density(asked, t) for t in (jnp.float32, jnp.float16, jnp.bfloat16))
    high = density(asked, jnp.bfloat16, mode="high")
    print(f"{asked:<8} {single:<9.5f} {half:<9.5f} {brain:<9.5f} {high:.5f}")

assert abs(density(0.001, jnp.float32) - 0.001) < 0.0002
assert 0.007 < density(0.001, jnp.bfloat16) < 0.009, "bfloat16 densities are no longer rounded up"
assert density(0.995, jnp.bfloat16) == 1, "0.995 in bfloat16 prunes again"
assert len(jnp.unique(jax.random.uniform(jax.random.key(2), (SIZE,), jnp.bfloat16))) == 128
PYTHON
