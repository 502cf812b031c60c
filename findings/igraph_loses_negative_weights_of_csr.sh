#!/usr/bin/env bash
# igraph sets the negative weights of an undirected graph to 0 if the matrix is sparse, and keeps them if it is dense.
#
# Guess: Graph.Weighted_Adjacency(W, mode="undirected") of a symmetric matrix takes each pair of equal entries
#   as one edge of that weight, and a SciPy matrix is a way to write W.
# Versions: igraph 1.0.0, scipy 1.17.1, numpy 2.4.6.
# What happens: "undirected" is another name for "max". The sparse path is Python of its own
#   (_graph_from_weighted_sparse_matrix in igraph/sparse_matrix.py): it takes the maximum of the two entries and 0, so
#   a negative edge stays with weight 0. The number of edges is right, and nothing is raised. "min", "upper", "lower"
#   and "plus" are right.
# Who is hurt: networks of correlations or of trained weights, where half of the edges are negative: strengths, modules
#   and signed communities are those of the positive half.
# Remedy: mode="upper" for a symmetric sparse matrix.
#
# Output seen (50 nodes, 112 edges):
#   mode         matrix   edges   negative   zero   sum of weights
#   undirected   array    112     56         0      3.140
#   undirected   CSR      112     0          56     42.318
#   max          array    112     56         0      3.140
#   max          CSR      112     0          56     42.318
#   upper        array    112     56         0      3.140
#   upper        CSR      112     56         0      3.140
#   plus         array    112     56         0      6.281
#   plus         CSR      112     56         0      6.281

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet igraph==1.0.0 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import igraph
import numpy as np
from scipy.sparse import csr_matrix

rng = np.random.default_rng(0)
weight = np.triu(rng.normal(size=(50, 50)) * (rng.random((50, 50)) < 0.1), 1)
weight = weight + weight.T
print("mode         matrix   edges   negative   zero   sum of weights")
found = {}
for mode in ("undirected", "max", "upper", "plus"):
    for name, matrix in (("array", weight), ("CSR", csr_matrix(weight))):
        graph = igraph.Graph.Weighted_Adjacency(matrix, mode=mode)
        w = np.array(graph.es["weight"])
        found[mode, name] = graph.ecount(), int((w < 0).sum()), int((w == 0).sum())
        edges, negative, zero = found[mode, name]
        print(f"{mode:<13}{name:<9}{edges:<8}{negative:<11}{zero:<7}{w.sum():.3f}")

count, negative = int((weight != 0).sum()) // 2, int((weight < 0).sum()) // 2
for (mode, name), numbers in found.items():
    if name == "CSR" and mode in ("undirected", "max"):
        assert numbers == (count, 0, negative), f"{mode} keeps negative weights of CSR now"
    else:
        assert numbers == (count, negative, 0), (mode, name)
PYTHON
