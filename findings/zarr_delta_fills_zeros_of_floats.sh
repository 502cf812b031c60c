#!/usr/bin/env bash
# The Delta filter of Zarr gives floats back with errors that add up: of a pruned weight's zeros one in six is left.
#
# Guess: Delta is a lossless filter: it stores differences of neighbors and adds them up again. It takes dtype="f4".
#   Floats may lose a last digit here and there.
# Versions: numcodecs 0.16.6, numpy 2.4.6.
# What happens: each difference is rounded, and numpy.cumsum in the same dtype rounds each sum, so all errors up to a
#   place are in its value (numcodecs/delta.py). A zero behind a weight is (0 - w) + (w + error). One large number
#   shifts all that is behind it, to the end of the chunk: 1e8, 1, 2, 3 comes back as 1e8, 0, 1, 2. A NaN makes all
#   that follows NaN. Integers wrap and come back exactly.
# Who is hurt: filters=[Delta("f4")] for weights, time stamps or counts in floats: sparsity, equality tests and
#   masks made of w != 0 are lost, and a gap in a series erases the rest of it.
# Remedy: Delta on integers alone; for floats the Shuffle filter, or Blosc with shuffle, which keeps every bit.
#
# Output seen (100,000 weights, 90 % zero, float32):
#   zeros before and after     90095 15056
#   largest error              1.3e-06
#   as int32 bits: equal       True
#   1e8, 1, 2, 3 ->            [1.e+08 0.e+00 1.e+00 2.e+00]
#   1, nan, 2, 3 ->            [ 1. nan nan nan]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numcodecs==0.16.6 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from numcodecs import Delta


def back(values, dtype="f4"):
    codec = Delta(dtype)
    return codec.decode(codec.encode(values))


rng = np.random.default_rng(0)
weight = np.where(rng.random(100000) < 0.9, 0, rng.normal(size=100000)).astype(np.float32)
read = back(weight)
exact = np.array_equal(back(weight.view(np.int32), "i4"), weight.view(np.int32))
large = back(np.array([1e8, 1, 2, 3], np.float32))
gap = back(np.array([1, np.nan, 2, 3], np.float32))
print("zeros before and after    ", (weight == 0).sum(), (read == 0).sum())
print(f"largest error              {np.abs(read - weight).max():.1e}")
print("as int32 bits: equal      ", exact)
print("1e8, 1, 2, 3 ->           ", large)
print("1, nan, 2, 3 ->           ", gap)
assert (weight == 0).mean() > 0.89 and exact
assert (read == 0).mean() < 0.3, "zeros are kept now"
assert large.tolist() == [1e8, 0, 1, 2] and np.isnan(gap[1:]).all()
PYTHON
