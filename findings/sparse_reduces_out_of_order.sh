#!/usr/bin/env bash
# numpy.subtract.reduce of a pydata sparse array takes the first stored entry, not the first: 0 - 2 - 0 is 2.
#
# Guess: COO and GCXS answer ufunc.reduce as NumPy does (the docstring of reduce calls it "a similar Numpy method"), or
#   raise where a ufunc depends on order, as they do for numpy.power and numpy.divide.
# Versions: sparse 0.19.3, numpy 2.4.6.
# What happens: ufunc.reduceat runs over the stored entries, and if one is missing the fill value is applied once, at
#   the end (sparse/numba_backend, reduce and _reduce_calc). The one check is that two fill values reduce to the fill
#   value: 0 - 0 = 0 and arctan2(0, 0) = 0 pass, 0 ** 0 does not. So the sign of the first stored entry is wrong
#   where a zero stands before it. Dense columns are right.
# Who is hurt: "first minus the rest" over an axis with an opening entry of 0: a balance without an opening amount, a
#   baseline channel that was pruned.
# Remedy: 2 * x[0] - x.sum(axis=0), or todense().
#
# Output seen (columns 3 5 0, 0 2 0, 0 0 4 and 9 1 1):
#                            NumPy        COO        GCXS
#   subtract, over rows      -2 -2 -4 7   -2 2 4 7   -2 2 4 7
#   add, over rows           8 2 4 11     8 2 4 11   8 2 4 11
#   arctan2 of 0 2           0.00         1.57       1.57
#   power                                 ValueError

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sparse==0.19.3 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import sparse

x = np.array([[3, 5, 0], [0, 2, 0], [0, 0, 4], [9, 1, 1]]).T
forms = {"NumPy": np.asarray, "COO": sparse.COO.from_numpy, "GCXS": sparse.GCXS.from_numpy}


def reduce(ufunc, array):
    result = ufunc.reduce(array, axis=0)
    return np.asarray(result.todense() if hasattr(result, "todense") else result).tolist()


print(f"{'':<25}NumPy        COO        GCXS")
found = {}
for ufunc in (np.subtract, np.add):
    found[ufunc] = [reduce(ufunc, form(x)) for form in forms.values()]
    texts = [" ".join(map(str, numbers)) for numbers in found[ufunc]]
    print(f"{ufunc.__name__ + ', over rows':<25}{texts[0]:<13}{texts[1]:<11}{texts[2]}")
angles = [reduce(np.arctan2, form(np.array([[0.0], [2.0]])))[0] for form in forms.values()]
print(f"{'arctan2 of 0 2':<25}{angles[0]:<13.2f}{angles[1]:<11.2f}{angles[2]:.2f}")
try:
    np.power.reduce(sparse.COO.from_numpy(x), axis=0)
    raise AssertionError("power is reduced now")
except ValueError as error:
    print(f"{'power':<38}{type(error).__name__}")
assert found[np.subtract][0] == [-2, -2, -4, 7] and found[np.add] == [[8, 2, 4, 11]] * 3
assert found[np.subtract][1] == found[np.subtract][2] == [-2, 2, 4, 7], "subtract is right or refused now"
assert angles[0] == 0 and np.allclose(angles[1:], np.pi / 2), "arctan2 is right or refused now"
PYTHON
