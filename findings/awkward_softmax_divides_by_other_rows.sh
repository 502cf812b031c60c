#!/usr/bin/env bash
# ak.softmax of a square NumPy matrix divides row i, column j by the sum of row j: rows add up to 0.29 and 2.94.
#
# Guess: ak.softmax(x, axis=-1) is the softmax of each list, the same for lists that happen to have equal lengths, and
#   subtracts the maximum first, as every library does.
# Versions: awkward 2.14.0, numpy 2.4.6, Python 3.11.
# What happens: it computes exp(x) / ak.sum(exp(x), axis=-1), with keepdims=False by default. Lists of variable length
#   broadcast from the left, so each list meets its own sum. Arrays with a regular last axis, such as those made
#   from NumPy, broadcast from the right, as NumPy does: column j meets the sum of row j. Only a shape that is not
#   square raises ("cannot broadcast RegularArray of size 2 with RegularArray of size 3"). keepdims=True, which
#   should change nothing, gives the right values. The maximum is not subtracted: 710 in float64, 89 in float32 are NaN.
# Who is hurt: routing weights and attention of a few experts or tokens by as many rows: finite, positive numbers that
#   do not sum to 1; batches whose number of rows equals the number of classes.
# Remedy: scipy.special.softmax for NumPy arrays; ak.softmax(x - ak.max(x, axis=-1, keepdims=True), axis=-1,
#   keepdims=True) for others.
#
# Output seen:
#   of NumPy       [[0.269, 0.0174], [1.99, 0.953]]    rows sum to [0.286, 2.94]
#   of lists       [[0.269, 0.731], [0.0474, 0.953]]   rows sum to [1, 1]
#   keepdims=True  [[0.269, 0.731], [0.0474, 0.953]]   rows sum to [1, 1]
#   2 x 3: cannot broadcast RegularArray of size 2 with RegularArray of size 3 in divide
#   of [[710, 0]]: [[nan, 0]]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 awkward==2.14.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import awkward as ak
import numpy as np

x = np.array([[0.0, 1.0], [2.0, 5.0]])
right = np.exp(x) / np.exp(x).sum(1, keepdims=True)
found = {
    "of NumPy": ak.softmax(ak.Array(x), axis=-1),
    "of lists": ak.softmax(ak.Array(x.tolist()), axis=-1),
    "keepdims=True": ak.softmax(ak.Array(x), axis=-1, keepdims=True),
}
for name, rows in found.items():
    print(f"{name:<15}{str(rows):<36}rows sum to {ak.sum(rows, axis=-1)}")
try:
    ak.softmax(ak.Array(np.ones((2, 3))), axis=-1)
    raise AssertionError("2 x 3 gives an answer now")
except ValueError as error:
    print("2 x 3:", str(error).splitlines()[0])
large = ak.softmax(ak.Array([[710.0, 0.0]]), axis=-1)
print("of [[710, 0]]:", large)
assert np.isnan(large[0, 0]), "the maximum is subtracted now"
assert np.allclose(found["of lists"], right) and np.allclose(found["keepdims=True"], right)
assert np.allclose(found["of NumPy"], np.exp(x) / np.exp(x).sum(1)), "rows are divided by their own sums now"
PYTHON
