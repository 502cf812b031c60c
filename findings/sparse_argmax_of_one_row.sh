#!/usr/bin/env bash
# sparse.argmax over the last axis of a batch of one loses the batch: (1, 4) becomes ().
#
# Guess: argmax(a, axis=1) removes that axis and no other, as in NumPy and the array API standard, which sparse
#   follows.
# Versions: sparse 0.19.3, NumPy 2.4.6.
# What happens: every axis of length 1 is removed with it, for COO, GCXS and DOK, argmax and argmin. The maximum
#   itself (`a.max(axis=1)`) keeps them. With keepdims=True all axes stay.
# Who is hurt: whoever predicts classes from sparse scores, at the first batch of one: loops fail on a scalar. Where
#   another axis has length 1, the result [n] broadcasts against labels [n, 1] to [n, n].
# Remedy: argmax(..., keepdims=True), then reshape.
#
# Output seen:
#   argmax of (3, 4): (3,), of (1, 4): (), of (2, 4, 1): (2,); NumPy: (3,), (1,), (2, 1)
#   maximum of (1, 4): (1,)

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sparse==0.19.3 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import sparse

shapes = (3, 4), (1, 4), (2, 4, 1)
scores = [np.arange(np.prod(shape)).reshape(shape) * 1.0 for shape in shapes]
found = [sparse.argmax(sparse.COO.from_numpy(one), axis=1).shape for one in scores]
right = [np.argmax(one, axis=1).shape for one in scores]
text = ", ".join(f"of {shape}: {one}" for shape, one in zip(shapes, found))
print(f"argmax {text}; NumPy: {', '.join(map(str, right))}")
most = sparse.COO.from_numpy(scores[1]).max(axis=1).shape
print(f"maximum of (1, 4): {most}")
assert right == [(3,), (1,), (2, 1)] and most == (1,), "it is different now"
assert found == [(3,), (), (2,)], "argmax keeps the other axes now"
PYTHON
