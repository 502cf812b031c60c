#!/usr/bin/env bash
# np.reciprocal of a sparse column of floats is 0 where the column is 3, if the fill value was given as 3.
#
# Guess: a column of dtype Sparse[float64] holds floats; whether its fill value is written 3 or 3.0 does not matter.
# Versions: pandas 3.1.1, NumPy 2.4.6.
# What happens: SparseArray(values, fill_value=3) keeps the Python integer beside float64 entries, and a ufunc is
#   applied to the entries and, separately, to the fill value. The reciprocal of an integer is an integer, so
#   1/3 becomes 0, and 1/0 is an integer and not inf. The dtype is Sparse[float64] before and after.
#   `1 / column` is right; so are exp, sqrt and others that make floats of integers.
# Who is hurt: whoever scales by inverse counts or degrees in a sparse column: fill_value=0 and fill_value=1 are what
#   everyone writes (1 is right by chance).
# Remedy: 1 / column, or fill_value=3.0.
#
# Output seen:
#   fill_value 3.0: [0.5, 0.3333333333333333, 0.3333333333333333], Sparse[float64, 3.0]
#   fill_value 3: [0.5, 0.0, 0.0], Sparse[float64, 3]; 1 / column: [0.5, 0.3333333333333333, 0.3333333333333333]
#   fill_value 0, 1/0 is infinite: False

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==3.1.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pandas as pd

np.seterr(all="ignore")


def column(values, fill):
    return pd.Series(pd.arrays.SparseArray(values, fill_value=fill))


values = [2.0, 3.0, 3.0]
right = column(values, 3.0)
wrong = column(values, 3)
good = np.reciprocal(right).to_numpy().tolist()
bad = np.reciprocal(wrong).to_numpy().tolist()
divided = (1 / wrong).to_numpy().tolist()
print(f"fill_value 3.0: {good}, {right.dtype}")
print(f"fill_value 3: {bad}, {wrong.dtype}; 1 / column: {divided}")
infinite = bool(np.isinf(np.reciprocal(column([2.0, 0.0], 0)).to_numpy()[1]))
print(f"fill_value 0, 1/0 is infinite: {infinite}")
assert good == divided == [1 / value for value in values], "it is different now"
assert wrong.dtype.subtype == np.float64 and bad == [0.5, 0.0, 0.0] and not infinite, "the fill value is a float now"
PYTHON
