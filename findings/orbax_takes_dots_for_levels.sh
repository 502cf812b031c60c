#!/usr/bin/env bash
# Orbax keeps one of two arrays and gives it twice, if a key of the tree has a dot where the other has two levels.
#
# Guess: a tree of arrays comes back as it was saved, whatever its keys are called; or two names that the files cannot
#   tell apart are refused at saving. A slash would be the dangerous character, as arrays lie in a folder.
# Versions: orbax-checkpoint 0.12.8 (the same on 0.11.36), jax 0.10.2, numpy 2.4.6, on a CPU.
# What happens: an array is stored under its keys joined by dots (param_name_from_keypath in
#   orbax/checkpoint/_src/tree/utils.py), so {"a": {"b": x}, "a.b": y} has two arrays of one name. Both are written, and
#   the one that is written last stays, which differs from run to run. The tree comes back complete, with and
#   without a template, and has the same array at both places. Nothing is raised. A slash is harmless.
# Who is hurt: trees that hold flat names beside nested ones: a model with a table of masks, norms or averages by dotted
#   path next to its layers, or the state dict of a PyTorch model of which some modules were taken apart.
# Remedy: keep the flat names under a key of their own ({"model": ..., "masks": {"layer.kernel": ...}}), or write
#   them with slashes.
#
# Output seen (10 saves of each tree; x is all 0, y all 1):
#   tree                                         arrays saved  different ones restored
#   {"layer": {"kernel": x}, "layer.kernel": y}  2             1 in 10 of 10
#   {"layer": [x], "layer.0": y}                 2             1 in 10 of 10
#   {"layer": {"kernel": x}, "layer/kernel": y}  2             2 in 10 of 10

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" -W ignore - "$folder" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

x, y = jnp.zeros(3), jnp.ones(3)
trees = {
    '{"layer": {"kernel": x}, "layer.kernel": y}': {"layer": {"kernel": x}, "layer.kernel": y},
    '{"layer": [x], "layer.0": y}': {"layer": [x], "layer.0": y},
    '{"layer": {"kernel": x}, "layer/kernel": y}': {"layer": {"kernel": x}, "layer/kernel": y},
}
saves = 10


def different(tree, path, template):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
        checkpointer.wait_until_finished()
        back = checkpointer.restore(path, tree) if template else checkpointer.restore(path)
    assert jax.tree.structure(back) == jax.tree.structure(tree), "names are lost"
    return len({np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(back)})


print(f"{'tree':<45}arrays saved  different ones restored")
found = []
for number, (shown, tree) in enumerate(trees.items()):
    counts = [different(tree, f"{sys.argv[1]}/{number}_{save}", save % 2) for save in range(saves)]
    found.append(min(counts))
    print(f"{shown:<45}{len(jax.tree.leaves(tree)):<14}{min(counts)} in {counts.count(min(counts))} of {saves}")
assert found[:2] == [1, 1], "dots and levels are told apart now"
assert found[2] == 2, "slashes are not told apart any more"
PYTHON
