#!/usr/bin/env bash
# A sparse product in bfloat16 stops counting at 256, where the dense one is exact.
#
# Guess: BCOO @ x and BCSR @ x in bfloat16 accumulate in float32 like a dense matmul, so both round once,
#   and a sparse row, having fewer terms, is if anything more accurate.
# Versions: jax 0.10.2, jaxlib 0.10.2, on a CPU (a GPU was not tried).
# What happens: dense bfloat16 products accumulate in float32; the sparse ones are a scatter-add that rounds
#   to bfloat16 after every single term. A row of 4096 ones gives 256 (2048 in float16), because 256 + 1
#   rounds back to 256. With 90 % zeros and random weights the error is about ten times the dense
#   one; with weights of one sign the result is also biased low. For BCOO there is no warning.
# Who is hurt: anyone who converts a pruned bfloat16 layer to BCOO or BCSR to serve it.
# Remedy: bcoo_dot_general(..., preferred_element_type=float32), or x in float32.
#
# Output seen:
#                        4096 ones  error, 10 % kept  result / exact, |weights|
#   dense                4096       0.1571%           1.0000
#   BCOO                 256        1.5868%           0.9783
#   BCSR                 256        1.5868%           0.9783
#   BCOO, float32 sums   4096       0.0000%           1.0000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO, BCSR, bcoo_dot_general


def wide(A, x):
    contract = (((1,), (0,)), ((), ()))
    return bcoo_dot_general(A, x, dimension_numbers=contract, preferred_element_type=jnp.float32)


def products(weight, x):
    sparse = BCOO.fromdense(weight)
    return {
        "dense": weight @ x,
        "BCOO": sparse @ x,
        "BCSR": BCSR.fromdense(weight) @ x,
        "BCOO, float32 sums": wide(sparse, x),
    }


ones = jnp.ones(4096, jnp.bfloat16)
ones = {name: float(y[0]) for name, y in products(ones[None], ones).items()}
keys = jax.random.split(jax.random.key(0), 3)
weight = jax.random.normal(keys[0], (512, 4096)) / 64
weight = jnp.where(jax.random.uniform(keys[1], weight.shape) < 0.1, weight, 0).astype(jnp.bfloat16)
x = jax.nn.relu(jax.random.normal(keys[2], (4096,))).astype(jnp.bfloat16)


def errors(weight):
    exact = weight.astype(jnp.float32) @ x.astype(jnp.float32)
    found = products(weight, x).items()
    relative = {n: float(jnp.linalg.norm(y - exact) / jnp.linalg.norm(exact)) for n, y in found}
    return relative, {n: float(jnp.sum(y.astype(jnp.float32)) / jnp.sum(exact)) for n, y in found}


mixed, _ = errors(weight)
_, share = errors(jnp.abs(weight))
print("                     4096 ones  error, 10 % kept  result / exact, |weights|")
for name in ones:
    print(f"{name:<20} {ones[name]:<10.0f} {mixed[name]:<17.4%} {share[name]:.4f}")

assert ones["dense"] == ones["BCOO, float32 sums"] == 4096
assert ones["BCOO"] == ones["BCSR"] == 256, "sparse products no longer stop at 256"
assert mixed["BCOO"] > 4 * mixed["dense"]
assert share["BCOO"] < 0.99 < share["dense"]
PYTHON
