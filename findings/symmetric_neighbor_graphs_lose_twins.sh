#!/usr/bin/env bash
# Making scikit-learn's graph of nearest neighbors symmetric removes the nearest of all, those at distance 0.
#
# Guess: kneighbors_graph(mode="distance") has an edge per neighbor, and the usual G.maximum(G.T) or (G + G.T) / 2 adds
#   the missing directions; it can only add edges.
# Versions: scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: two equal rows are neighbors at distance 0, which the graph holds as stored zeros. SciPy's operations
#   between two sparse arrays drop zeros from their result, so each edge between equal rows is gone, and what DBSCAN and
#   other functions with metric="precomputed" find there is "not a neighbor". Twins become noise or fall into pieces;
#   connected_components of the two graphs differ. Conversions, copies and .T keep the zeros. Nothing is raised.
# Who is hurt: whoever clusters or reads a graph of rows of which many are equal: dead units, rows that pruning
#   emptied, samples without an active feature, duplicated data.
# Remedy: mode="connectivity" for the graph's structure; for distances a tiny positive number in G.data where it is 0.
#
# Output seen (60 rows of zeros and 60 distinct ones, 5 neighbors):
#                         edges   components   noise in DBSCAN
#   G                     600     2            0
#   G.maximum(G.T)        428     61           60
#   (G + G.T) / 2         428     61           60
#   the same, 0 as 1e-12  998     2            0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN
from sklearn.neighbors import kneighbors_graph

rng = np.random.default_rng(0)
rows = np.concatenate([np.zeros((60, 8)), 3 + 0.3 * rng.normal(size=(60, 8))])
graph = kneighbors_graph(rows, 5, mode="distance")
mended = graph.copy()
mended.data[mended.data == 0] = 1e-12
print(f"{'':<22}edges   components   noise in DBSCAN")
found = {}
for name, g in {
    "G": graph,
    "G.maximum(G.T)": graph.maximum(graph.T),
    "(G + G.T) / 2": (graph + graph.T) / 2,
    "the same, 0 as 1e-12": mended.maximum(mended.T),
}.items():
    noise = int((DBSCAN(eps=1.5, min_samples=3, metric="precomputed").fit(g.tocsr()).labels_ == -1).sum())
    found[name] = g.nnz, int(connected_components(g)[0]), noise
    print(f"{name:<22}{found[name][0]:<8}{found[name][1]:<13}{noise}")

assert found["G"][0] == 600 and found["G"][2] == 0
assert found["the same, 0 as 1e-12"][0] > 600 and found["the same, 0 as 1e-12"][2] == 0
for name in ("G.maximum(G.T)", "(G + G.T) / 2"):
    assert found[name][0] < 600 and found[name][2] >= 60, f"{name} keeps stored zeros now"
PYTHON
