#!/usr/bin/env bash
# A COO array of SciPy made from a CSR array holds other numbers after the CSR array has been cleaned up.
#
# Guess: coo_array(csr) is a copy, as another format needs other arrays; or, like NumPy's views, it follows its source.
# Versions: scipy 1.17.1, numpy 2.4.6.
# What happens: neither. It shares data and columns with the CSR array and has rows of its own, since the constructor
#   calls tocoo(copy=False), which is also what csr.tocoo() does (scipy/sparse/_coo.py, _csr.py, _compressed.py).
#   eliminate_zeros and sum_duplicates move entries along the shared arrays: the COO array then has values and
#   columns of other rows beside its old rows, and entries twice at its end. Nothing is raised, nnz is as before.
# Who is hurt: whoever keeps a matrix in COO to compare with or to write, prunes the CSR one in place, and calls
#   eliminate_zeros as the documents advise.
# Remedy: coo_array(csr, copy=True), csr.tocoo(copy=True).
#
# Output seen (200 x 200, 20 % kept, then the smaller half of the CSR array's entries set to 0 and eliminated):
#                         entries as before  entries as in the pruned CSR array  sum of the weights / that before
#   coo_array(csr)        0.2481             0.7004                              3.374
#   csr.tocoo()           0.2481             0.7004                              3.374
#   csr.tocoo(copy=True)  1.0000             0.5001                              1.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy import sparse

rng = np.random.default_rng(0)
weight = rng.normal(size=(200, 200)) * (rng.random((200, 200)) < 0.2)
half = np.median(np.abs(weight[weight != 0]))
found = {}
print(f"{'':<22}entries as before  entries as in the pruned CSR array  sum of the weights / that before")
for name, convert in (
    ("coo_array(csr)", sparse.coo_array),
    ("csr.tocoo()", lambda csr: csr.tocoo()),
    ("csr.tocoo(copy=True)", lambda csr: csr.tocoo(copy=True)),
):
    csr = sparse.csr_array(weight)
    coo = convert(csr)
    assert np.array_equal(coo.toarray(), weight)
    csr.data[np.abs(csr.data) < half] = 0
    csr.eliminate_zeros()
    after = coo.toarray()
    places = weight != 0
    found[name] = [float(np.mean((after == one)[places])) for one in (weight, csr.toarray())]
    print(f"{name:<22}{found[name][0]:<19.4f}{found[name][1]:<36.4f}{after.sum() / weight.sum():.3f}")
    assert coo.nnz == np.count_nonzero(weight)
assert found["csr.tocoo(copy=True)"][0] == 1
for name in ("coo_array(csr)", "csr.tocoo()"):
    assert max(found[name]) < 0.9, f"{name} is a copy or a view now"
PYTHON
