#!/usr/bin/env bash
# A handle of ALE's XLA interface is no state: stepping twice from one handle plays on, it does not play again.
#
# Guess: `handle, reset, step = AtariVectorEnv(...).xla()`, and `step` takes a handle and returns the next one,
#   so a handle holds the state of the games, as a state does in Brax, gymnax or pgx: from an old handle, the
#   same actions give the same frames, and a search may branch there.
# Versions: ale-py 0.12.1, jax 0.10.2.
# What happens: a handle is eight bytes that name a simulator, the same ones after every step. A step from
#   any handle continues where the simulator is. So nothing can be branched, replayed or restored, and a
#   handle that was saved to a file means nothing to another process.
# Who is hurt: whoever saves or forks the carry of a scan, or recomputes a step (jax.checkpoint, a search).
# Remedy: reset with a seed and play the same actions again; keep the carry of one run in one run.
#
# Output seen:
#   handles before and after a step are equal: True
#   first and second step from one handle: episode frames 9 and 13
#   after a new reset with the seed: episode frame 9, the first frames again: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ale-py[xla]==0.12.1" jax==0.10.2 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
from ale_py.vector_env import AtariVectorEnv

handle, reset, step = AtariVectorEnv("pong", num_envs=1, noop_max=0).xla()
up = jnp.full(1, 2, jnp.int32)


def frame(result):
    return int(result[1][4]["episode_frame_number"][0])


old, _ = reset(handle, 7)
old, *_ = step(old, up)
first = step(old, up)
second = step(old, up)
same = bool((np.asarray(old) == np.asarray(first[0])).all())
print(f"handles before and after a step are equal: {same}")
print(f"first and second step from one handle: episode frames {frame(first)} and {frame(second)}")
again, _ = reset(handle, 7)
again, *_ = step(again, up)
replayed = step(again, up)
equal = bool((np.asarray(replayed[1][0]) == np.asarray(first[1][0])).all())
print(f"after a new reset with the seed: episode frame {frame(replayed)}, the first frames again: {equal}")
assert same and frame(second) == frame(first) + 4 and equal, "it is different now"
PYTHON
