#!/usr/bin/env bash
# A value that is not in the dict of Series.map becomes NaN in pandas, unless it is a sparse column's fill value.
#
# Guess: Series.map(dict) turns what is not a key into NaN ("values not found in the dict are converted to NaN"), for
#   each entry alike and for each kind of storage.
# Versions: pandas 3.1.1, NumPy 2.4.6.
# What happens: in a sparse column only the stored entries do so; the fill value, 0 for counts and one-hot columns,
#   stays what it is when the dict does not have it. So unmapped zeros come out as 0, among the new values. Where
#   a stored entry is mapped to that very number, an error is raised; otherwise nothing is said. With a function in
#   place of the dict, the result is right.
# Who is hurt: whoever renames classes or looks up weights of a sparse column: with 0 as "unknown", left out of the
#   dict, dropna() and isna() find nothing, and the examples are kept as class 0.
# Remedy: dense = series.sparse.to_dense() before map, or a dict with all values.
#
# Output seen:
#   dense:  [nan, 10.0, 20.0, nan], 2 missing
#   sparse: [0, 10, 20, 0], 0 missing

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==3.1.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pandas as pd

dense = pd.Series([0, 1, 2, 0])
weights = {1: 10, 2: 20}
found = {}
for name, series in (("dense:", dense), ("sparse:", dense.astype("Sparse[int64, 0]"))):
    mapped = series.map(weights)
    found[name] = mapped.to_numpy().tolist(), int(mapped.isna().sum())
    print(f"{name:<7} {found[name][0]}, {found[name][1]} missing")
assert np.array_equal(found["dense:"][0], [np.nan, 10, 20, np.nan], equal_nan=True), "it is different now"
assert found["sparse:"] == ([0, 10, 20, 0], 0), "the fill value becomes NaN now"
PYTHON
