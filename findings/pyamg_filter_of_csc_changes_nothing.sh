#!/usr/bin/env bash
# PyAMG's filter_matrix_rows lumps only by the diagonal, and by the diagonal leaves a CSC matrix as it was.
#
# Guess: filter_matrix_rows(A, theta, lump=True) drops small entries of each row and adds them to the diagonal, which
#   "preserves row sum of matrix"; diagonal=True measures by the diagonal entry, in place; any sparse format is taken.
# Versions: pyamg 5.4.1, scipy 1.17.1, numpy 2.4.6.
# What happens: lump is read only with diagonal=True; without it the entries are simply dropped (pyamg/util/utils.py).
#   With diagonal=True the work is done on A.tocsr(), which is A itself for CSR and a copy for CSC, COO and BSR; None is
#   returned, so for these the result is lost. Nothing is raised or warned.
# Who is hurt: a graph Laplacian or diffusion operator whose rows must sum to 0, thinned to make it cheaper: constants
#   are no longer in its kernel. A transposed matrix is CSC: filtering A.T, for columns, does nothing.
# Remedy: A = A.tocsr() before, and diagonal=True with lump=True; compare A.sum(axis=1).
#
# Output seen (ring of 8 nodes with weak links across; the rows of the matrix sum to 0, 16 of 40 entries are small):
#   format     by        lump    entries   largest |row sum|
#   csr_array  row       False   24        0.20
#   csr_array  row       True    24        0.20
#   csr_array  diagonal  False   24        0.20
#   csr_array  diagonal  True    24        0.00
#   csc_array  row       True    24        0.20
#   csc_array  diagonal  True    40        0.00   unchanged

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyamg==5.4.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from pyamg.util.utils import filter_matrix_rows
from scipy.sparse import csc_array, csr_array

weight = np.zeros((8, 8))
for step, value in ((1, 1), (-1, 1), (3, 0.1), (-3, 0.1)):
    weight[np.arange(8), (np.arange(8) + step) % 8] = value
laplacian = np.diag(weight.sum(axis=1)) - weight
assert np.abs(laplacian.sum(axis=1)).max() < 1e-12

print("format     by        lump    entries   largest |row sum|")
found = {}
for form, diagonal, lump in (
    (csr_array, False, False),
    (csr_array, False, True),
    (csr_array, True, False),
    (csr_array, True, True),
    (csc_array, False, True),
    (csc_array, True, True),
):
    matrix = form(laplacian)
    result = filter_matrix_rows(matrix, 0.2, diagonal=diagonal, lump=lump)
    assert (result is None) == diagonal
    matrix = matrix if result is None else result
    gap = np.abs(matrix.toarray().sum(axis=1)).max()
    found[form, diagonal, lump] = int(matrix.nnz), float(round(gap, 6))
    note = "   unchanged" if np.array_equal(matrix.toarray(), laplacian) else ""
    by = "diagonal" if diagonal else "row"
    print(f"{form.__name__:<11}{by:<10}{lump!s:<8}{matrix.nnz:<10}{gap:.2f}{note}")
assert found[csr_array, True, True] == (24, 0)
assert found[csr_array, False, True] == found[csr_array, False, False] == (24, 0.2), "lump works by rows now"
assert found[csc_array, True, True] == (40, 0), "CSC is filtered now"
PYTHON
