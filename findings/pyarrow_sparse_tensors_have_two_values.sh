#!/usr/bin/env bash
# A sparse tensor of pyarrow made from a COO matrix is another matrix by to_tensor() than by to_scipy().
#
# Guess: Arrow's SparseCOOTensor has one meaning. Entries at one place are added, as in SciPy, or from_scipy
#   refuses them, as has_canonical_format is there to say that there are none.
# Versions: pyarrow 26.0.1, scipy 1.17.1, numpy 2.4.6.
# What happens: from_scipy takes the entries as they are; to_scipy gives them back, to be added; to_tensor writes one
#   after the other into a dense array, so that the last one stays and the others are lost. SparseCSRMatrix.from_scipy
#   does the same with CSR, which has no such mark; has_canonical_format is False here, and to_tensor does not ask.
# Who is hurt: sums kept as COO on purpose (gradients of embeddings, counts of pairs, finite elements) that pass
#   through Arrow, as between processes: the receiver gets the last term of each sum in place of the sum.
# Remedy: sum_duplicates() before from_scipy.
#
# Output seen (1000 pairs counted in 10 x 10 places):
#   SciPy                       sum 1000
#   SparseCOOTensor.to_scipy    sum 1000, canonical: False
#   SparseCOOTensor.to_tensor   sum 100
#   SparseCSRMatrix.to_scipy    sum 1000
#   SparseCSRMatrix.to_tensor   sum 100
#   after sum_duplicates        sum 1000, canonical: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==26.0.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pyarrow
from scipy import sparse

pairs = np.random.default_rng(0).integers(0, 10, size=(2, 1000))
counts = sparse.coo_array((np.ones(1000), tuple(pairs)), shape=(10, 10))
pointers = np.concatenate([[0], np.cumsum(np.bincount(pairs[0], minlength=10))])
columns = pairs[1][np.argsort(pairs[0], kind="stable")]
rows = sparse.csr_array((np.ones(1000), columns, pointers), shape=(10, 10))
assert np.array_equal(rows.toarray(), counts.toarray())
coo = pyarrow.SparseCOOTensor.from_scipy(counts)
csr = pyarrow.SparseCSRMatrix.from_scipy(rows)
summed = counts.copy()
summed.sum_duplicates()
clean = pyarrow.SparseCOOTensor.from_scipy(summed)
found = {
    "SciPy": counts,
    "SparseCOOTensor.to_scipy": coo.to_scipy(),
    "SparseCOOTensor.to_tensor": coo.to_tensor().to_numpy(),
    "SparseCSRMatrix.to_scipy": csr.to_scipy(),
    "SparseCSRMatrix.to_tensor": csr.to_tensor().to_numpy(),
    "after sum_duplicates": clean.to_tensor().to_numpy(),
}
canonical = {
    "SparseCOOTensor.to_scipy": coo.has_canonical_format,
    "after sum_duplicates": clean.has_canonical_format,
}
sums = {name: float(one.sum()) for name, one in found.items()}
for name, total in sums.items():
    mark = f", canonical: {canonical[name]}" if name in canonical else ""
    print(f"{name:<27} sum {total:.0f}{mark}")
assert not coo.has_canonical_format and clean.has_canonical_format
assert sums["SciPy"] == sums["SparseCOOTensor.to_scipy"] == sums["SparseCSRMatrix.to_scipy"] == 1000
assert sums["after sum_duplicates"] == 1000
for name in ("SparseCOOTensor.to_tensor", "SparseCSRMatrix.to_tensor"):
    assert sums[name] == np.count_nonzero(counts.toarray()), "to_tensor adds up entries at one place now"
PYTHON
