#!/usr/bin/env bash
# jnp.asarray of a NumPy array compiles a program for each new shape; jax.device_put compiles none.
#
# Guess: bringing a NumPy array to the device is a copy, and jnp.asarray the cheap way to ask for it, as
#   nothing is computed.
# Versions: jax 0.10.2, jaxlib 0.10.2 (the same on 0.12.0.1; on 0.7.2 and 0.8.1 only jnp.array compiles).
# What happens: jnp.asarray and jnp.array stage the array by a jitted copy, which XLA compiles once for each
#   shape and dtype: 10 ms on two cores of an EPYC beside 0.04 ms for jax.device_put. The results are the same.
# Who is hurt: whoever loads or packs models layer by layer, where most shapes are new (sparse formats above
#   all, where the number of kept weights is a shape): 500 arrays of a checkpoint take 5 s of compiling.
# Remedy: jax.device_put for arrays that are NumPy's already and that nobody writes into afterwards (see
#   device_put_shares_numpy_memory.sh).
#
# Output seen:
#   programs compiled for 10 new shapes: device_put 0, array 10, asarray 10
#   for the same shapes again:           device_put 0, array 0, asarray 0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **more: compiled.append(event) if "backend_compile" in event else None
)
ways = {"device_put": jax.device_put, "array": jnp.array, "asarray": jnp.asarray}
first, again = {}, {}
for number, (name, way) in enumerate(ways.items()):
    arrays = [np.zeros(1000 * (number + 1) + n, np.float32) for n in range(10)]
    for found in (first, again):
        compiled.clear()
        for array in arrays:
            same = way(array)
            assert same.shape == array.shape and same.dtype == array.dtype
        found[name] = len(compiled)
print("programs compiled for 10 new shapes:", ", ".join(f"{n} {c}" for n, c in first.items()))
print("for the same shapes again:          ", ", ".join(f"{n} {c}" for n, c in again.items()))
assert first == {"device_put": 0, "array": 10, "asarray": 10}, "it is different now"
assert not any(again.values())
PYTHON
