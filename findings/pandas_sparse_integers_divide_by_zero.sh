#!/usr/bin/env bash
# A sparse column of integers in pandas has 7 // 0 = 0 and 7 % 0 = 0; a dense one has inf and NaN.
#
# Guess: pandas does not have the 7 // 0 = 0 of NumPy: a division of integers by zero is infinite and a remainder NaN,
#   so isna() and isinf() find them, and the storage does not change results.
# Versions: pandas 3.1.1, NumPy 2.4.6.
# What happens: for a number and a sparse column, from either side, the ufunc of NumPy is applied to the stored
#   entries and to the fill value, and its zeros are kept without a warning. Two columns give inf and NaN, as does `/`.
# Who is hurt: buckets and rates of counts: where the divisor is 0, the result is an ordinary 0, which belongs to the
#   first bucket, and a later check for missing values passes.
# Remedy: dense = series.sparse.to_dense() first, or `/` and numpy.floor.
#
# Output seen:
#   7 // counts: dense [inf, 3.0, inf], sparse [0, 3, 0]
#   7 % counts: dense [nan, 1.0, nan], sparse [0, 1, 0]
#   counts // 0: dense [nan, inf, nan], sparse [0, 0, 0]
#   counts / 0: dense [nan, inf, nan], sparse [nan, inf, nan]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==3.1.1 numpy==2.4.6
"$folder/venv/bin/python" -W error - <<'PYTHON'
import numpy as np
import pandas as pd

counts = pd.Series([0, 2, 0])
cases = {
    "7 // counts": (lambda x: 7 // x, [0, 3, 0]),
    "7 % counts": (lambda x: 7 % x, [0, 1, 0]),
    "counts // 0": (lambda x: x // 0, [0, 0, 0]),
    "counts / 0": (lambda x: x / 0, [np.nan, np.inf, np.nan]),
}
for name, (operation, seen) in cases.items():
    dense = operation(counts).to_numpy()
    sparse = operation(counts.astype("Sparse[int64, 0]")).to_numpy()
    print(f"{name}: dense {dense.tolist()}, sparse {sparse.tolist()}")
    assert not np.isfinite(dense[0]), "dense columns are different now"
    assert np.array_equal(sparse, seen, equal_nan=True), f"{name} is different now"
PYTHON
