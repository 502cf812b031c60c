#!/usr/bin/env bash
# Arrays that MLX has loaded from a file hold what is saved to that file afterwards.
#
# Guess: mx.load reads the file, or at least the arrays are those that the file had then; a later save of the same
#   name changes the file and not the arrays, as with np.load and with load_file of safetensors.numpy.
# Versions: mlx 0.32.4 (the CPU build of Linux), numpy 2.4.6.
# What happens: mx.load reads names, types and shapes only, and each array keeps the open file and its offset until
#   it is first evaluated (load_safetensors in mlx/io/safetensors.cpp). mx.save_safetensors writes into the same file
#   in place. What was not evaluated in between is read from the new content. load_weights of mlx.nn does the same, and
#   so does mx.load of what mx.save wrote. (That loading is lazy is documented, as a way to save memory.)
# Who is hurt: whoever loads the last or the best checkpoint to compare with, or to go back to, and goes on saving under
#   that name: old and new weights are equal, their difference is 0, the reset has no effect. Nothing is raised.
# Remedy: mx.eval(arrays) directly after mx.load; or save under a new name and rename, which leaves the old file to
#   those that have it open.
#
# Output seen (the file held 1s when it was loaded, and 7s were saved to it before the first use):
#   mx.load of safetensors            7.0
#   mx.load of npy                    7.0
#   Module.load_weights               7.0
#   mx.load, then mx.eval             1.0
#   mx.load, then a save and rename   1.0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "mlx[cpu]==0.32.4" numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os

import mlx.core as mx
from mlx import nn


def save(value, name="weights.safetensors"):
    mx.save_safetensors(name, {"weight": mx.full((4, 4), value)})


def loaded():
    save(1.0)
    arrays = mx.load("weights.safetensors")
    save(7.0)
    return arrays["weight"]


def loaded_npy():
    mx.save("weights.npy", mx.full((4, 4), 1.0))
    array = mx.load("weights.npy")
    mx.save("weights.npy", mx.full((4, 4), 7.0))
    return array


def by_module():
    layer = nn.Linear(4, 4, bias=False)
    save(1.0)
    layer.load_weights("weights.safetensors")
    save(7.0)
    return layer.weight


def evaluated():
    save(1.0)
    arrays = mx.load("weights.safetensors")
    mx.eval(arrays)
    save(7.0)
    return arrays["weight"]


def renamed():
    save(1.0)
    arrays = mx.load("weights.safetensors")
    save(7.0, "new.safetensors")
    os.replace("new.safetensors", "weights.safetensors")
    return arrays["weight"]


ways = {
    "mx.load of safetensors": loaded,
    "mx.load of npy": loaded_npy,
    "Module.load_weights": by_module,
    "mx.load, then mx.eval": evaluated,
    "mx.load, then a save and rename": renamed,
}
found = {}
for name, way in ways.items():
    values = way()
    assert bool((values == values[0, 0]).all())
    found[name] = values[0, 0].item()
    print(f"{name:<34}{found[name]}")
assert list(found.values())[:3] == [7.0, 7.0, 7.0], "arrays are read when they are loaded now"
assert list(found.values())[3:] == [1.0, 1.0], "the remedy is none"
PYTHON
