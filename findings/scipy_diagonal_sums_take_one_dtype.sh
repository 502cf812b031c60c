#!/usr/bin/env bash
# The sum of two DIA arrays of SciPy may have the dtype of one of them: 300 + 1 is 45.
#
# Guess: a sum of sparse arrays has the dtype that NumPy promotes both to, as with CSR, CSC and COO.
# Versions: SciPy 1.17.1, NumPy 2.4.6.
# What happens: where the diagonals of one array are among those of the other, the sum is made in a copy of the
#   data of the array with more diagonals, in its dtype. So int32 + int8 may be int8 and wrap, float64 + float32 be
#   float32; where NumPy refuses to cast (int8 and float64), an error is raised. Where both have the same diagonals,
#   or each has one that the other lacks, the dtype is right.
# Who is hurt: whoever adds a diagonal to a banded matrix, such as degrees to the negated adjacency of a chain or
#   a grid kept in few bytes, or a ridge to a banded Gram matrix.
# Remedy: convert both to one dtype first, or add in CSR.
#
# Output seen:
#   as CSR: int32, diagonal [301, 401, 501]
#   as DIA: int8, diagonal [45, -111, -11]
#   0.1 on a float64 diagonal plus float32 bands, as DIA: float32, error 2e-08

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy.sparse as sp

degrees = np.diag([300, 400, 500]).astype(np.int32)
bands = np.array([[1, 2, 0], [0, 1, 2], [0, 0, 1]], np.int8)
right = sp.csr_array(degrees) + sp.csr_array(bands)
print(f"as CSR: {right.dtype}, diagonal {right.diagonal().tolist()}")
found = sp.dia_array(degrees) + sp.dia_array(bands)
print(f"as DIA: {found.dtype}, diagonal {found.diagonal().tolist()}")
ridge = sp.dia_array(np.diag([0.1, 0.1, 0.1])) + sp.dia_array(bands.astype(np.float32))
error = abs(float(ridge.toarray()[0, 0]) - 1.1)
print(f"0.1 on a float64 diagonal plus float32 bands, as DIA: {ridge.dtype}, error {error:.0e}")
assert right.diagonal().tolist() == [301, 401, 501], "CSR is different now"
assert found.dtype == np.int8 and found.diagonal().tolist() == [45, -111, -11], "DIA is right now"
assert ridge.dtype == np.float32 and error > 0, "DIA is right now"
PYTHON
