#!/usr/bin/env bash
# jax.random.choice without replacement draws entries whose probability is zero.
#
# Guess: choice(key, n, (k,), replace=False, p=p) never returns an entry with p = 0. NumPy refuses when
#   fewer than k entries have p > 0 ("Fewer non-zero entries in p than size"); JAX cannot raise
#   inside jit, so it pads, repeats, or gives an index out of range.
# Versions: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6.
# What happens: it returns all entries with p > 0, and then entries with p = 0 from the front: 0, 1, 2, ...
#   All are distinct valid indices, so nothing looks wrong. If all p are 0 or NaN, the draw is 0, 1, 2, ...
#   for every key.
# Who is hurt: random growth (SET, DEEP R) that draws the connections to grow among the inactive ones
#   with p = inactive / inactive.sum(). A layer to which Erdos-Renyi-Kernel gives a density near 1 "grows"
#   connections that it already has, always in the first rows, and ends below its budget.
# Remedy: draw min(k, count_nonzero(p)), or keep only the drawn entries that have p > 0.
#
# Output seen:
#   NumPy: Fewer non-zero entries in p than size
#   JAX, key 0: p > 0: [955 235 602 822 592 254 473 681 154 567] p = 0: [0 1 2 3]
#   JAX, key 1: p > 0: [592 235 822 681 602 473 254 567 154 955] p = 0: [0 1 2 3]
#   JAX, all p = 0: [0 1 2 3 4]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

SIZE, FREE, GROW = 1000, 10, 14
order = jax.random.permutation(jax.random.key(9), SIZE)
inactive = jnp.zeros(SIZE).at[order[:FREE]].set(1)
p = inactive / inactive.sum()

try:
    np.random.default_rng(0).choice(SIZE, GROW, replace=False, p=np.asarray(p, np.float64))
    raise SystemExit("NumPy no longer refuses")
except ValueError as error:
    print("NumPy:", error)

for seed in range(2):
    drawn = jax.random.choice(jax.random.key(seed), SIZE, (GROW,), replace=False, p=p)
    possible = np.asarray(inactive[drawn] > 0)
    print(f"JAX, key {seed}: p > 0:", drawn[possible], "p = 0:", drawn[~possible])
    assert len(set(drawn.tolist())) == GROW
    assert drawn[~possible].tolist() == [0, 1, 2, 3], "zero probabilities are no longer drawn"

never = jax.random.choice(jax.random.key(0), SIZE, (5,), replace=False, p=jnp.zeros(SIZE))
print("JAX, all p = 0:", never)
assert never.tolist() == [0, 1, 2, 3, 4]
PYTHON
