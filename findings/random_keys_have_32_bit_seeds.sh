#!/usr/bin/env bash
# jax.random.key reads 32 bits of its seed: run 1 and run 2 are one run where the seed is (run << 32) + worker.
#
# Guess: a key is 64 bits, made of a seed that may be "a 64- or 32-bit integer", so two seeds below 2^64 give two keys;
#   NumPy's default_rng uses all of them. A seed that is too large raises.
# Versions: jax 0.10.2, jaxlib 0.10.2, flax 0.12.8, numpy 2.4.6, on a CPU.
# What happens: without jax_enable_x64, which is off by default, the seed becomes an array first (random_seed in
#   jax/_src/random/prng.py), which has 32 bits then, so the upper half of the seed is lost and the upper half of the
#   key is 0. It holds for Python's and NumPy's integers, for PRNGKey, for nnx.Rngs and for "rbg". Nothing is raised,
#   also not for -1, which is the seed 2^32 - 1. With jax_enable_x64 the same seeds give different keys, so switching
#   it on changes the random numbers. PyTorch's generator of the CPU reads 32 bits as well (torch 2.13.0, tried aside).
# Who is hurt: seeds composed of run and worker, and seeds from time_ns() or a hash: repetitions are bit for bit
#   the same and the spread between them is 0, or they collide after 2^16 draws and not after 2^32.
# Remedy: jax.random.fold_in(jax.random.key(run), worker).
#
# Output seen (8 seeds: 4 runs of 2 workers):
#                                    different keys  with jax_enable_x64
#   run + 4 * worker                 8               8
#   (run << 32) + worker             2               8
#   (run << 32) + worker, uint64     2               8
#   (run << 32) + worker, "rbg"      2               8
#   kernels of nnx.Linear            2
#   fold_in(key(run), worker)        8               8

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import numpy as np
from flax import nnx

runs = [(run, worker) for run in range(4) for worker in range(2)]
ways = {
    "run + 4 * worker": lambda run, worker: jax.random.key(run + 4 * worker),
    "(run << 32) + worker": lambda run, worker: jax.random.key((run << 32) + worker),
    "(run << 32) + worker, uint64": lambda run, worker: jax.random.key(np.uint64((run << 32) + worker)),
    '(run << 32) + worker, "rbg"': lambda run, worker: jax.random.key((run << 32) + worker, impl="rbg"),
    "fold_in(key(run), worker)": lambda run, worker: jax.random.fold_in(jax.random.key(run), worker),
}


def different(arrays):
    return len({np.asarray(x).tobytes() for x in arrays})


found = {}
print(f"{'':<33}different keys  with jax_enable_x64")
for name, key in ways.items():
    counts = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            counts.append(different(jax.random.key_data(key(*run)) for run in runs))
    if name.startswith("fold_in"):
        kernels = [nnx.Linear(4, 4, rngs=nnx.Rngs((run << 32) + worker)).kernel[...] for run, worker in runs]
        print(f"{'kernels of nnx.Linear':<33}{different(kernels)}")
        assert different(kernels) == 2, "nnx.Rngs reads the whole seed now"
    print(f"{name:<33}{counts[0]:<16}{counts[1]}")
    found[name] = counts

for name, counts in found.items():
    assert counts == ([2, 8] if "<<" in name else [8, 8]), f"{name} is no longer as it was"
assert different([jax.random.key_data(jax.random.key(seed)) for seed in (-1, 2**32 - 1)]) == 1
PYTHON
