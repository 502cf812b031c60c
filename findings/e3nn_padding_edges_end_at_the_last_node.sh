#!/usr/bin/env bash
# Padding edges of e3nn_jax.radius_graph(size=...) are self-loops of the last node, and scatter_sum adds them there.
#
# Guess: radius_graph with a fixed size, which jax.jit needs, pads in a way that the package's own scatter functions
#   leave out, as they do an index that is too large, so the size does not change the result.
# Versions: e3nn-jax 0.21.0, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU.
# What happens: the padding is -1 for both ends (fill_src, fill_dst), and in an index of JAX -1 is the last node. Its
#   sum counts itself once for each unused place; its length is 0, where radial functions and the first spherical
#   harmonic are not 0. The mean is wrong too. Without a size no edge has an equal start and end.
# Who is hurt: potentials and graph networks under jit: the last atom of each structure has a wrong energy, which
#   depends on how much room was left. A check with another order of the atoms, or of their symmetries, shows it.
# Remedy: fill_dst=len(positions), which the scatter functions drop.
#
# Output seen (number of neighbors of 5 points, by scatter_sum of ones):
#   no size:               [0.0, 1.0, 2.0, 0.0, 1.0]
#   size=16:               [0.0, 1.0, 2.0, 0.0, 13.0]
#   size=16, fill_dst=5:   [0.0, 1.0, 2.0, 0.0, 1.0]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet e3nn-jax==0.21.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

positions = jax.random.normal(jax.random.key(0), (5, 3))
distance = np.linalg.norm(np.asarray(positions[:, None] - positions), axis=-1)
right = ((distance < 2.0) & (distance > 0)).sum(1).tolist()
found = []
cases = {"no size": {}, "size=16": {"size": 16}, "size=16, fill_dst=5": {"size": 16, "fill_dst": 5}}
for text, arguments in cases.items():
    _, end = e3nn.radius_graph(positions, 2.0, **arguments)
    found.append(e3nn.scatter_sum(jnp.ones(len(end)), dst=end, output_size=5).tolist())
    print(f"{text + ':':<22} {found[-1]}")
edges = sum(right)
assert found[0] == found[2] == right and edges < 16
assert found[1] == [*right[:4], right[4] + 16 - edges], "padding is left out now"
PYTHON
