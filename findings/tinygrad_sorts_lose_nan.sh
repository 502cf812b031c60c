#!/usr/bin/env bash
# tinygrad's sort gives one number twice in the place of a NaN, or all NaN if the NaN comes first.
#
# Guess: a sort returns the numbers that it got, in another order; a NaN goes to one end, as in NumPy, PyTorch and JAX,
#   and the indices are a permutation.
# Versions: tinygrad 0.14.0, numpy 2.4.6 (run by its PYTHON device; the CPU device gives the same).
# What happens: the sort is a network of maxima and minima, and in tinygrad the maximum and minimum of a number and NaN
#   depend on which comes first. A NaN is lost, and a neighbor is there twice; or it takes all places. The indices are
#   found by comparing values, which NaN does not equal: they repeat, and index 0 stands for what is not found.
#   topk is made from it; max and argmax skip a NaN if it is not the first entry.
# Who is hurt: whoever ranks scores or magnitudes of which one is NaN: thresholds come from wrong numbers, an index is
#   chosen twice, and a check of the sorted numbers for NaN passes.
# Remedy: replace NaN before, where(x.isnan(), -inf, x), or check x.isnan().any() on the input.
#
# Output seen (values, indices):
#   [5, 4, nan, 2, 1, 0, 7, 8]: [0, 1, 2, 2, 4, 5, 7, 8], [5, 4, 3, 0, 1, 0, 6, 7]
#   [nan, 4, 3, 2, 1, 0, 7, 8]: [nan, nan, nan, nan, nan, nan, nan, nan], [0, 0, 0, 0, 0, 0, 0, 0]
#   NumPy:                      [0, 1, 2, 4, 5, 7, 8, nan], [5, 4, 3, 1, 0, 6, 7, 2]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tinygrad==0.14.0 numpy==2.4.6
DEV=PYTHON XDG_CACHE_HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from tinygrad import Tensor

nan = float("nan")


def text(values):
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"


found = []
for first in ([5, 4, nan], [nan, 4, 3]):
    row = np.array([*first, 2, 1, 0, 7, 8], np.float32)
    values, indices = (one.numpy() for one in Tensor(row).sort())
    found.append((values, indices))
    print(f"{text(row)}: {text(values)}, {text(indices)}")
row = np.array([5, 4, nan, 2, 1, 0, 7, 8], np.float32)
print(f"NumPy:                      {text(np.sort(row))}, {text(np.argsort(row))}")
(kept, places), (lost, _) = found
assert not np.isnan(kept).any() and len(set(places.tolist())) == 7, "NaN is kept now"
assert np.isnan(lost).all(), "a NaN in front takes one place now"
PYTHON
