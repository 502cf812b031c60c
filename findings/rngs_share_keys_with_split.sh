#!/usr/bin/env bash
# With seed 0 for both, a random mask drawn by jax.random.split keeps exactly the largest weights of an nnx layer.
#
# Guess: nnx.Rngs(0) and jax.random.key(0) have the seed in common and no more: keys that a program splits
#   off its own key are independent of those by which Flax draws the weights.
# Versions: jax 0.10.2, flax 0.12.8.
# What happens: nnx.Rngs(s) hands out fold_in(key(s), 0), fold_in(key(s), 1), ..., and since jax_threefry_partitionable
#   is the default, split(key(s), n)[i] is fold_in(key(s), i), too. The first key of a split is the key of the
#   first kernel, bit for bit; initializers and uniform masks are both monotone in those bits.
# Who is hurt: baselines with random masks, dropout at initialization, noise added to weights: a "random" tenth
#   is the top tenth, all of one sign, of nearly twice the norm that it should have.
# Remedy: fold a constant of your own into the key before splitting.
#
# Output seen:
#   key of the first kernel is split(key(0))[0]: True
#   a random tenth of the kernel, seeds 0 and 1: smallest weight kept -0.1311, positive 49 %
#   a random tenth of the kernel, seeds 0 and 0: smallest weight kept  0.0777, positive 100 %

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from flax import nnx

data = jax.random.key_data
same = (data(nnx.Rngs(0).params()) == data(jax.random.split(jax.random.key(0))[0])).all()
print("key of the first kernel is split(key(0))[0]:", bool(same))
assert same
kernel = nnx.Linear(300, 100, rngs=nnx.Rngs(0)).kernel[...]
for seed, share in ((1, 0.5), (0, 1.0)):
    key = jax.random.split(jax.random.key(seed))[0]
    kept = kernel[jax.random.uniform(key, kernel.shape) > 0.9]
    positive = float(jnp.mean(kept > 0))
    print(
        f"a random tenth of the kernel, seeds 0 and {seed}: "
        f"smallest weight kept {float(kept.min()):7.4f}, positive {positive:.0%}".replace("%", " %")
    )
    assert abs(positive - share) < 0.03
PYTHON
