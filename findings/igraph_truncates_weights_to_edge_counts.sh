#!/usr/bin/env bash
# igraph's Adjacency(weights) of a NumPy array gives a graph without edges when all weights are below 1.
#
# Guess: Graph.Adjacency(abs(W)) leaves the weights out and has an edge wherever W is not 0, as in networkx.
# Versions: igraph 1.0.0, networkx 3.6.1, scipy 1.17.1, numpy 2.4.6.
# What happens: an entry is a number of parallel edges, which the documentation says, and a float is truncated to one,
#   which it does not: 0.99 is no edge and 2.7 is two. No warning comes. Only a negative entry is refused. The sparse
#   path does not truncate, it raises TypeError for floats.
# Who is hurt: whoever looks at the connectivity of a pruned layer or a reservoir: initial weights are below 1 nearly
#   everywhere, so all units look isolated. Scaled weights give a graph of some edges, several of them in parallel,
#   which degrees, paths and modules count.
# Remedy: Graph.Adjacency(W != 0), or Weighted_Adjacency(W).
#
# Output seen (100 nodes, 1,000 weights from -0.9 to 0.9):
#                                edges   pairs of nodes
#   networkx                     1000    1000
#   Weighted_Adjacency(W)        1000    1000
#   Adjacency(W != 0)            1000    1000
#   Adjacency(abs(W))            0       0
#   Adjacency(10 * abs(W))       3930    900
#   Adjacency(W)                 InternalError
#   Adjacency(CSR of abs(W))     TypeError
#   entries 0.99 and 2.7: edges [(0, 2), (0, 2)]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet igraph==1.0.0 networkx==3.6.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import igraph
import networkx as nx
import numpy as np
from igraph import Graph
from scipy.sparse import csr_matrix

rng = np.random.default_rng(0)
weight = np.zeros((100, 100))
weight.flat[rng.choice(weight.size, 1000, replace=False)] = rng.uniform(-0.9, 0.9, 1000)
size = np.abs(weight)
graphs = {
    "networkx": lambda: nx.from_numpy_array(weight, create_using=nx.DiGraph).edges,
    "Weighted_Adjacency(W)": lambda: Graph.Weighted_Adjacency(weight).get_edgelist(),
    "Adjacency(W != 0)": lambda: Graph.Adjacency(weight != 0).get_edgelist(),
    "Adjacency(abs(W))": lambda: Graph.Adjacency(size).get_edgelist(),
    "Adjacency(10 * abs(W))": lambda: Graph.Adjacency(10 * size).get_edgelist(),
    "Adjacency(W)": lambda: Graph.Adjacency(weight).get_edgelist(),
    "Adjacency(CSR of abs(W))": lambda: Graph.Adjacency(csr_matrix(size)).get_edgelist(),
}
print(f"{'':<29}edges   pairs of nodes")
found = {}
for name, edges in graphs.items():
    try:
        found[name] = len(edges()), len(set(edges()))
        print(f"{name:<29}{found[name][0]:<8}{found[name][1]}")
    except (igraph.InternalError, TypeError) as error:
        found[name] = type(error).__name__
        print(f"{name:<29}{found[name]}")
several = Graph.Adjacency([[0, 0.99, 2.7], [0, 0, 0], [0, 0, 0]]).get_edgelist()
print(f"entries 0.99 and 2.7: edges {several}")

count = int((weight != 0).sum())
for name in ("networkx", "Weighted_Adjacency(W)", "Adjacency(W != 0)"):
    assert found[name] == (count, count), name
assert found["Adjacency(abs(W))"] == (0, 0), "weights below 1 are edges now"
scaled = (10 * size).astype(int)
assert found["Adjacency(10 * abs(W))"] == (scaled.sum(), (scaled > 0).sum()), "entries are not truncated now"
assert several == [(0, 2), (0, 2)]
assert found["Adjacency(W)"] == "InternalError", "negative entries are taken now"
assert found["Adjacency(CSR of abs(W))"] == "TypeError", "the sparse path takes floats now"
PYTHON
