#!/usr/bin/env bash
# python-graphblas adds up an int8 matrix in int8: the mean of 200 entries of 100 is 0.16.
#
# Guess: the sum of small integers is taken in int64, as in NumPy, SciPy and PyTorch, and a mean, being a float, is one
#   of the numbers as they are.
# Versions: python-graphblas 2025.2.0, suitesparse-graphblas 9.4.5.0, scipy 1.17.1, numpy 2.4.6.
# What happens: the monoid has the type of the matrix, and so has the result: sums by row, by column and over all
#   wrap around, as products of int8 matrices do (in SciPy too, but not its sums).
#   The mean is that sum over the count, so it is a wrong float64.
# Who is hurt: counts of boolean or quantized adjacency and activations kept as int8 to save memory: degrees above 127
#   turn negative, and rates and means made of them are numbers that look sound.
# Remedy: matrix.dup(dtype=int) before the sum.
#
# Output seen (a row of 200 entries of 100):
#   SciPy sum        20000
#   over all         32 INT8
#   by row           32 INT8
#   after dup(int)   20000 INT64
#   mean             0.16 FP64
#   degree of a node with 200 neighbors, int8 ones: -56

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet python-graphblas==2025.2.0 suitesparse-graphblas==9.4.5.0 scipy==1.17.1 \
    numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import graphblas
import numpy as np
from scipy import sparse

dense = np.full((1, 200), 100, np.int8)
matrix = graphblas.Matrix.from_dense(dense)
wide = matrix.dup(dtype=int)
scalars = {
    "over all": matrix.reduce_scalar("plus").new(),
    "by row": matrix.reduce_rowwise("plus").new()[0].new(),
    "after dup(int)": wide.reduce_scalar("plus").new(),
    "mean": matrix.reduce_scalar(graphblas.agg.mean).new(),
}
print(f"{'SciPy sum':<16} {sparse.csr_array(dense).sum()}")
for name, scalar in scalars.items():
    print(f"{name:<16} {scalar.value} {scalar.dtype}")
degree = graphblas.Matrix.from_dense(np.ones((1, 200), np.int8)).reduce_rowwise("plus").new()[0].value
print("degree of a node with 200 neighbors, int8 ones:", degree)
assert sparse.csr_array(dense).sum() == scalars["after dup(int)"].value == 20000
assert scalars["over all"].value == scalars["by row"].value == 32, "sums of int8 are widened now"
assert scalars["mean"].value == 0.16 and degree == -56
PYTHON
