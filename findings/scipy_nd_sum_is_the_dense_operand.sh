#!/usr/bin/env bash
# A sparse array of three axes plus a transposed or broadcast NumPy array is that NumPy array: the sparse part is lost.
#
# Guess: SciPy's arrays of more than two axes add to NumPy arrays as those of two do.
# Versions: SciPy 1.17.1, NumPy 2.4.6.
# What happens: the sparse values are added into the flattened NumPy array, which is a view of it in C or Fortran
#   order alone. After a transposition such as (1, 0, 2), or broadcasting a row (a bias) to all positions, it is a
#   copy, and what was added there is dropped; no error, and the shape and dtype are right. The order of the
#   operands does not matter. A difference is right, and so are arrays of two axes.
# Who is hurt: whoever adds a bias, a positional encoding or a transposed activation to a sparse tensor.
# Remedy: np.ascontiguousarray(np.broadcast_to(b, a.shape)) before adding.
#
# Output seen:
#   sparse + row equals the broadcast row: True
#   sparse + transposed equals the transposed array: True
#   right with the same values in C order: True True
#   right as a difference: True True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy.sparse as sp

dense = np.arange(8.0).reshape(2, 2, 2)
sparse = sp.coo_array(dense)
row = np.array([10.0, 20.0])
transposed = np.arange(8.0).reshape(2, 2, 2).transpose(1, 0, 2)
lost = [
    np.array_equal(sparse + row, np.broadcast_to(row, dense.shape)),
    np.array_equal(sparse + transposed, transposed),
]
print(f"sparse + row equals the broadcast row: {lost[0]}")
print(f"sparse + transposed equals the transposed array: {lost[1]}")
others = [np.ascontiguousarray(np.broadcast_to(one, dense.shape)) for one in (row, transposed)]
right = [np.array_equal(sparse + one, dense + one) for one in others]
print("right with the same values in C order:", *right)
differences = [np.array_equal(sparse - one, dense - one) for one in (row, transposed)]
print("right as a difference:", *differences)
assert all(lost), "the sum is right now"
assert all(right) and all(differences), "it is different now"
PYTHON
