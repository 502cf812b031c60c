#!/usr/bin/env bash
# In sparse's DOK arrays, negative positions in a list read zeros, and write a second entry.
#
# Guess: `a[[0, -1]]` is the first and the last entry, as in NumPy, and as `a[-1]` is in the same array.
# Versions: sparse 0.19.3, NumPy 2.4.6.
# What happens: only single numbers count from the end. A list looks up the position -1 itself, under which nothing
#   is stored, so the fill value is read. What is written goes there, too: the dense array shows it at the end, but
#   the last entry still reads as before, and an array of length 3 has four stored entries; the conversion to COO,
#   and with it most operations, then raises an error that does not say why.
# Who is hurt: whoever gathers the last k, or relative positions, of a matrix under construction.
# Remedy: positions % length.
#
# Output seen:
#   a[-1] and a[[0, -1]]: 3.0 and [1.0, 0.0]
#   after a[[-1]] = 7: dense [1.0, 2.0, 7.0], a[[2]] is 3.0, stored entries 4

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sparse==0.19.3 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import sparse

a = sparse.DOK.from_numpy(np.array([1.0, 2.0, 3.0]))
last, read = float(a[-1]), a[[0, -1]].todense().tolist()
print(f"a[-1] and a[[0, -1]]: {last} and {read}")
a[[-1]] = 7
dense, third = a.todense().tolist(), float(a[[2]].todense()[0])
print(f"after a[[-1]] = 7: dense {dense}, a[[2]] is {third}, stored entries {a.nnz}")
assert last == 3 and read == [1, 0], "lists are wrapped now"
assert third == 3 and a.nnz == 4 and dense == [1, 2, 7], "writing is different now"
PYTHON
