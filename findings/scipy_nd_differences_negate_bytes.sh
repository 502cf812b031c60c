#!/usr/bin/env bash
# In SciPy, zero minus a sparse array of bytes is positive if there are three axes: 0 - 200 is 56.
#
# Guess: a difference of sparse arrays has the values of the dense difference; int64 minus uint8 is int64.
# Versions: SciPy 1.17.1, NumPy 2.4.6.
# What happens: in a - b with three axes or more, b is negated in its own dtype, then added to a in the dtype of both.
#   Unsigned values wrap while they are negated, and the result has the right dtype with 256 too much; -128 of int8
#   keeps its sign. With one and two axes it is right.
# Who is hurt: whoever subtracts stored frames, counts or labels in unsigned integers, as sparse stacks of images
#   or events are kept.
# Remedy: b.astype(int) before subtracting.
#
# Output seen:
#   one axis: -200, two: -200, three: 56
#   int8, 0 - (-128): 128 with two axes, -128 with three

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy.sparse as sp


def difference(value, dtype, axes):
    """0 in int64 minus a value, first entry."""
    shape = (2,) * axes
    b = np.zeros(shape, dtype)
    b[(0,) * axes] = value
    found = sp.coo_array(np.zeros(shape, np.int64)) - sp.coo_array(b)
    return int(found.toarray()[(0,) * axes])


one, two, three = (difference(200, np.uint8, axes) for axes in (1, 2, 3))
print(f"one axis: {one}, two: {two}, three: {three}")
flat, deep = (difference(-128, np.int8, axes) for axes in (2, 3))
print(f"int8, 0 - (-128): {flat} with two axes, {deep} with three")
assert (one, two, flat) == (-200, -200, 128), "fewer axes are different now"
assert (three, deep) == (56, -128), "three axes are right now"
PYTHON
