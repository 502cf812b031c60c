#!/usr/bin/env bash
# The product of a COO array of one row with a vector is a scalar in SciPy, in all other formats an array of one.
#
# Guess: (1, n) @ (n,) is (1,), as in NumPy and in CSR; the format of a sparse array does not change shapes.
# Versions: SciPy 1.17.1, NumPy 2.4.6.
# What happens: coo_array handles one and two axes in one function, which reduces a result of length 1 as if the array
#   had been a vector. `@`, dot, and a vector from the left (n,) @ (n, 1) do so. Arrays of two rows, of three axes
#   (1, 1, n), coo_matrix, CSR, CSC, BSR, DIA, LIL and DOK are right, and so is a product with a matrix (n, 1).
# Who is hurt: a layer with one output, or a batch of one: `len`, loops and np.concatenate fail on a scalar, and
#   what does not fail broadcasts.
# Remedy: convert to CSR, or reshape the product to the number of rows.
#
# Output seen:
#   coo_array: 1 row (), 2 rows (2,); from the left ()
#   csr, csc, bsr, dia, lil, dok: 1 row (1,), 2 rows (2,); from the left (1,)

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy.sparse as sp

x = np.ones(3)


def shapes(name):
    one, two = (sp.coo_array(np.ones((rows, 3))).asformat(name) for rows in (1, 2))
    return np.shape(one @ x), np.shape(two @ x), np.shape(x @ one.T.asformat(name))


others = ("csr", "csc", "bsr", "dia", "lil", "dok")
found = {name: shapes(name) for name in ("coo", *others)}
for label, name in (("coo_array", "coo"), (", ".join(others), "csr")):
    print("{}: 1 row {}, 2 rows {}; from the left {}".format(label, *found[name]))
assert all(found[name] == ((1,), (2,), (1,)) for name in others), "the others are different now"
assert found["coo"] == ((), (2,), ()), "COO keeps the axis now"
PYTHON
