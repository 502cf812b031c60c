#!/usr/bin/env bash
# SciPy's shortest paths in a dense matrix ignore edges of 1e-8 or shorter, so a connected graph falls apart.
#
# Guess: in scipy.sparse.csgraph a zero of a dense matrix is "no edge" and every other number is an edge, so an array
#   and its CSR form are one graph, and its paths do not depend on the unit of length.
# Versions: scipy 1.17.1, numpy 2.4.6.
# What happens: a dense argument goes through numpy.ma.masked_values(graph, 0), which masks what is *close* to 0, and
#   close means within 1e-8 (csgraph_masked_from_dense, scipy/sparse/csgraph/_tools.pyx). CSR input is taken as it is.
#   There is no warning: distances are infinite or, worse, those of detours. A spanning tree loses the edges too.
# Who is hurt: lengths in meters at the scale of nanometers, rates, small probabilities, and pruning by graph
#   connectivity on a dense weight matrix. What the doc of minimum_spanning_tree mentions as rounding is a cut.
# Remedy: pass scipy.sparse.csr_array(matrix), which keeps every nonzero.
#
# Output seen (graphs of 50 nodes; the distance is from node 0 to node 25):
#   edges to  unit  argument  edges of 1e-8 or less  components  edges of the spanning tree  distance [nm]
#   30 nm     nm    array     0                      1           49                          29.91
#   30 nm     nm    CSR       0                      1           49                          29.91
#   30 nm     m     array     23                     1           49                          248.59
#   30 nm     m     CSR       23                     1           49                          29.91
#   12 nm     nm    array     0                      1           49                          13.83
#   12 nm     nm    CSR       0                      1           49                          13.83
#   12 nm     m     array     73                     27          23                          inf
#   12 nm     m     CSR       73                     1           49                          13.83

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree, shortest_path

nodes = 50


def lengths(longest):
    """A ring of `nodes` with as many chords, and edges of 1 to `longest` nanometers."""
    rng = np.random.default_rng(0)
    matrix = np.zeros((nodes, nodes))
    for i in range(nodes):
        for j in ((i + 1) % nodes, rng.integers(nodes)):
            if i != j:
                matrix[i, j] = matrix[j, i] = rng.uniform(1, longest)
    return matrix


found = {}
print("edges to  unit  argument  edges of 1e-8 or less  components  edges of the spanning tree  distance [nm]")
for longest in (30, 12):
    for unit, scale in (("nm", 1.0), ("m", 1e-9)):
        matrix = lengths(longest) * scale
        for name, graph in (("array", matrix), ("CSR", csr_array(matrix))):
            short = np.count_nonzero((matrix > 0) & (matrix <= 1e-8)) // 2
            components = int(connected_components(graph)[0])
            tree = minimum_spanning_tree(graph).nnz
            distance = float(shortest_path(graph, directed=False)[0, 25]) / scale
            found[longest, unit, name] = components, tree, round(distance, 6)
            print(f"{longest} nm     {unit:<6}{name:<10}{short:<23}{components:<12}{tree:<28}{distance:.2f}")
    whole = found[longest, "nm", "array"]
    assert whole[:2] == (1, nodes - 1)
    assert found[longest, "nm", "CSR"] == whole == found[longest, "m", "CSR"]

assert found[30, "m", "array"][2] > found[30, "m", "CSR"][2], "short edges of an array count now"
assert found[12, "m", "array"][0] > 1 and found[12, "m", "array"][1] < nodes - 1
PYTHON
