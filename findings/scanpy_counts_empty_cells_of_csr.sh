#!/usr/bin/env bash
# Scanpy's normalize_total makes a CSR matrix all zeros when most of its rows are empty; the same array is normalized.
#
# Guess: CSR is a way to store the counts, and the one that anndata recommends; normalize_total(adata) scales every
#   cell to one total, which does not depend on the storage.
# Versions: Scanpy 1.11.5, the last one for Python 3.11, anndata 0.12.19, SciPy 1.17.1, NumPy 2.4.6. In Scanpy 1.12.4
#   both are alike.
# What happens: by default the total is the median of the cells' totals. For an array it is that of the nonempty
#   cells, for CSR and CSC that of all. A third of empty cells moves all values by a common factor; with more than half
#   the median is 0 and all counts become 0. The warning "Some cells have zero counts" comes in either case.
# Who is hurt: whoever normalizes before filtering: raw droplets, spatial bins outside the tissue, a panel of
#   a few genes. log1p and PCA of two data sets, one dense and one sparse, are then on different scales.
# Remedy: sc.pp.filter_cells(adata, min_counts=1) first, or give target_sum.
#
# Output seen:
#   1 of 3 cells empty: dense [[0.75, 2.25], [3.0, 0.0], [0.0, 0.0]], CSR [[0.5, 1.5], [2.0, 0.0], [0.0, 0.0]]
#   3 of 5 cells empty: dense [[0.75, 2.25], [3.0, 0.0], ...], CSR [[0.0, 0.0], [0.0, 0.0], ...]
#   target_sum=3: equal

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scanpy==1.11.5 anndata==0.12.19 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import anndata
import numpy as np
import scanpy
import scipy.sparse as sp

warnings.simplefilter("ignore")
counts = [[1, 3], [2, 0]]


def normalized(empty, store, **settings):
    adata = anndata.AnnData(store(np.array(counts + [[0, 0]] * empty, np.float32)))
    scanpy.pp.normalize_total(adata, **settings)
    return (adata.X.toarray() if sp.issparse(adata.X) else adata.X).tolist()


dense, sparse = (normalized(1, store) for store in (np.asarray, sp.csr_matrix))
print(f"1 of 3 cells empty: dense {dense}, CSR {sparse}")
assert dense == [[0.75, 2.25], [3, 0], [0, 0]], "it is different now"
assert sparse == [[0.5, 1.5], [2, 0], [0, 0]], "empty cells of CSR do not count now"
dense, sparse = (normalized(3, store) for store in (np.asarray, sp.csr_matrix))
print(f"3 of 5 cells empty: dense [{dense[0]}, {dense[1]}, ...], CSR [{sparse[0]}, {sparse[1]}, ...]")
assert dense[:2] == [[0.75, 2.25], [3, 0]], "it is different now"
assert not np.any(sparse), "CSR with mostly empty cells is normalized now"
given = [normalized(3, store, target_sum=3) for store in (np.asarray, sp.csr_matrix)]
print(f"target_sum=3: {'equal' if given[0] == given[1] else 'different'}")
assert given[0] == given[1], "it is different now"
PYTHON
