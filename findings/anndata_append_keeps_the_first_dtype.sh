#!/usr/bin/env bash
# AnnData's append to a sparse matrix on disk stores 0.5 as 0, if the first part was integers.
#
# Guess: sparse_dataset(group).append(matrix) refuses a dtype that does not fit the stored one, as it refuses another
#   format or width, or ends at the common dtype, as scipy.sparse.vstack does.
# Versions: anndata 0.12.19, scipy 1.17.1, h5py 3.16.0, numpy 2.4.6.
# What happens: the data array is resized and the new values assigned (anndata/_core/sparse_dataset.py, append), so
#   the storage converts: fractions are cut off, and what is too large ends at 127 for int8. The entries
#   stay, with the value 0, so nnz and the pattern look right. The index arrays are checked against overflow, the
#   values against nothing; only backed mode and shapes raise errors.
# Who is hurt: a file that is built batch by batch, the first with raw counts (integers) and a later one normalized or
#   decoded; masks as int8 extended by weights.
# Remedy: first.astype(np.result_type(...)) before the first write.
#
# Output seen (rows appended to a matrix of ones; the first row appended, as stored):
#   first part  appended   stored        nnz   vstack
#   float32     0.5, 2.9   0.5, 2.9      4     0.5, 2.9
#   int32       0.5, 2.9   0, 2          4     0.5, 2.9
#   int8        300, 2     127, 2        4     300, 2

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet anndata==0.12.19 scipy==1.17.1 h5py==3.16.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import h5py
import numpy as np
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

print("first part  appended   stored        nnz   vstack")
found = {}
with h5py.File("x", "w", driver="core", backing_store=False) as file:
    for dtype, row in (("float32", [0.5, 2.9]), ("int32", [0.5, 2.9]), ("int8", [300, 2])):
        first = sparse.csr_matrix(np.ones((1, 2), dtype))
        later = sparse.csr_matrix(np.array([row]))
        write_elem(file, dtype, first)
        stored = sparse_dataset(file[dtype])
        stored.append(later)
        matrix = sparse_dataset(file[dtype]).to_memory()
        whole = sparse.vstack([first, later]).toarray()[1]
        assert np.allclose(whole, row)
        found[dtype] = [round(float(one), 4) for one in matrix.toarray()[1]], matrix.nnz
        texts = [", ".join(f"{one:g}" for one in part) for part in (row, found[dtype][0], whole)]
        print(f"{dtype:<12}{texts[0]:<11}{texts[1]:<14}{matrix.nnz:<6}{texts[2]}")
assert found["float32"] == ([0.5, 2.9], 4)
assert found["int32"] == ([0, 2], 4), "integers are widened or fractions refused now"
assert found["int8"] == ([127, 2], 4), "large values are kept or refused now"
PYTHON
