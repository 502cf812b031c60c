#!/usr/bin/env bash
# matrix[[1, 3], [0, 4]] of AnnData's sparse matrix on disk is 2 x 2; in memory, or dense in Zarr, it is two numbers.
#
# Guess: sparse_dataset(group) is "analogous to h5py.Dataset or zarr.Array, but for sparse matrices" and gives SciPy's
#   matrices, so two lists of indices pick pairs, as in SciPy, NumPy and Zarr, or raise, as in h5py.
# Versions: anndata 0.12.19, zarr 3.1.6, h5py 3.16.0, scipy 1.17.1, numpy 2.4.6.
# What happens: two index arrays go through numpy.ix_ (anndata/_core/sparse_dataset.py, _normalize_index), which is the
#   rule of AnnData objects, and a grid is returned. After to_memory() the same expression picks pairs.
# Who is hurt: the values of a list of edges or of (row, label) pairs: with n pairs n x n are read and returned, the
#   first row of which, or its sum, is taken for the pairs' values; scores of held-out entries in a recommender.
# Remedy: matrix.to_memory(), or the rows first and the pairs in memory.
#
# Output seen (numbers 0 to 29 in 5 rows; rows 1, 3 and columns 0, 4):
#                        h5py                     zarr
#   sparse, on disk      [[6, 10], [18, 22]]      [[6, 10], [18, 22]]
#   sparse, in memory    [[6, 22]]                [[6, 22]]
#   dense, on disk       TypeError                [6, 22]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet anndata==0.12.19 zarr==3.1.6 h5py==3.16.0 scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import h5py
import numpy as np
import zarr
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

x = np.arange(30).reshape(5, 6)
found = {}
with h5py.File("x", "w", driver="core", backing_store=False) as file:
    for name, store in (("h5py", file), ("zarr", zarr.group())):
        write_elem(store, "sparse", sparse.csr_matrix(x))
        write_elem(store, "dense", x)
        matrix = sparse_dataset(store["sparse"])
        forms = {"sparse, on disk": matrix, "sparse, in memory": matrix.to_memory(), "dense, on disk": store["dense"]}
        for form, array in forms.items():
            try:
                part = array[[1, 3], [0, 4]]
                found[form, name] = (part.toarray() if sparse.issparse(part) else np.asarray(part)).tolist()
            except TypeError as error:
                found[form, name] = type(error).__name__
print(f"{'':<21}h5py                     zarr")
for form in forms:
    print(f"{form:<21}{found[form, 'h5py']!s:<25}{found[form, 'zarr']}")
pairs, grid = [6, 22], [[6, 10], [18, 22]]
assert found["sparse, in memory", "h5py"] == found["sparse, in memory", "zarr"] == [pairs]
assert found["dense, on disk", "zarr"] == pairs and found["dense, on disk", "h5py"] == "TypeError"
assert found["sparse, on disk", "h5py"] == found["sparse, on disk", "zarr"] == grid, "pairs are picked or refused now"
PYTHON
