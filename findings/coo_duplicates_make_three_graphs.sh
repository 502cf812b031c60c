#!/usr/bin/env bash
# One SciPy matrix in COO gives graphs of three different weights in SciPy, networkx and igraph.
#
# Guess: entries of COO at one place are summed, which is what the format means, so the graph of a COO matrix is that of
#   its CSR form, which every one of these libraries reads.
# Versions: scipy 1.17.1, networkx 3.6.1, igraph 1.0.0, numpy 2.4.6.
# What happens: SciPy's csgraph sums. networkx goes through the entries one by one and each overwrites the weight of the
#   one before, so the last one counts; bipartite.from_biadjacency_matrix does the same. igraph makes parallel edges,
#   or, when undirected, keeps the largest. The number of edges is right in networkx, so nothing shows.
# Who is hurt: layers merged or unrolled to edge lists: a convolution as a graph of channels, several heads
#   or time steps between the same nodes, counts of passes.
# Remedy: matrix.tocsr() first; sum_duplicates() on the COO matrix.
#
# Output seen (entries 1, 2 and 4 at one place):
#                         COO               CSR
#   SciPy, distance       [7.0]             [7.0]
#   networkx              [4.0]             [7.0]
#   networkx, bipartite   [4.0]             [7.0]
#   igraph                [1.0, 2.0, 4.0]   [7.0]
#   igraph, undirected    [4.0]             [7.0]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 networkx==3.6.1 igraph==1.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import igraph
import networkx as nx
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

entries = np.array([1.0, 2.0, 4.0]), (np.array([0, 0, 0]), np.array([1, 1, 1]))
coo = coo_matrix(entries, shape=(2, 2))


def directed(matrix):
    return [w for _, _, w in nx.from_scipy_sparse_array(matrix, create_using=nx.DiGraph).edges.data("weight")]


def bipartite(matrix):
    return [w for _, _, w in nx.bipartite.from_biadjacency_matrix(matrix).edges.data("weight")]


def weights(matrix, mode):
    return [float(w) for w in igraph.Graph.Weighted_Adjacency(matrix, mode=mode).es["weight"]]


functions = {
    "SciPy, distance": lambda m: [float(dijkstra(m)[0, 1])],
    "networkx": directed,
    "networkx, bipartite": bipartite,
    "igraph": lambda m: weights(m, "directed"),
    "igraph, undirected": lambda m: weights(m, "undirected"),
}
print(f"{'':<22}COO               CSR")
found = {name: (function(coo), function(coo.tocsr())) for name, function in functions.items()}
for name, (first, second) in found.items():
    print(f"{name:<22}{first!s:<18}{second}")
    assert second == [7], name
assert found["SciPy, distance"][0] == [7]
assert found["networkx"][0] == found["networkx, bipartite"][0] == [4], "networkx sums now"
assert found["igraph"][0] == [1, 2, 4], "igraph sums now"
assert found["igraph, undirected"][0] == [4]
PYTHON
