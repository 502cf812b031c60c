#!/usr/bin/env bash
# A boolean mask that went through BCOO is int32: x[mask] then gathers, and ~mask is nowhere 0.
#
# Guess: BCOO.fromdense(mask).todense() is the mask, with its dtype, as scipy.sparse keeps it.
# Versions: jax 0.10.2; the same with jax 0.12.0.1.
# What happens: bool becomes int32 in fromdense. `x[mask]` takes elements 1 and 0 instead of those where the mask is
#   True, without an error; `~mask` is -1 and -2, both true; a sum of two masks counts 2. BCOO.from_scipy_sparse and
#   BCOO((data, indices)) keep bool, and then todense raises a TypeError.
# Who is hurt: whoever stores masks of sparse training as BCOO, as they are mostly zeros.
# Remedy: .todense().astype(bool), or compare with 0.
#
# Output seen:
#   dtype after the round trip: int32
#   x[mask]: [10.0, 30.0] before, [20.0, 10.0, 20.0] after
#   where(~mask, x, 0): [0.0, 20.0, 0.0] before, [10.0, 20.0, 30.0] after

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
from jax.experimental import sparse

x = jnp.array([10.0, 20.0, 30.0])
mask = jnp.array([True, False, True])
after = sparse.BCOO.fromdense(mask).todense()
print(f"dtype after the round trip: {after.dtype}")
taken = x[mask].tolist(), x[after].tolist()
print(f"x[mask]: {taken[0]} before, {taken[1]} after")
hidden = jnp.where(~mask, x, 0).tolist(), jnp.where(~after, x, 0).tolist()
print(f"where(~mask, x, 0): {hidden[0]} before, {hidden[1]} after")
assert after.dtype == jnp.int32 and taken[1] == [20, 10, 20] and hidden[1] == x.tolist(), "masks stay masks now"
assert taken[0] == [10, 30] and hidden[0] == [0, 20, 0], "it is different now"
PYTHON
