#!/usr/bin/env bash
# np.sort and np.argsort of bfloat16 or float8 numbers are out of order if one of them is NaN.
#
# Guess: NumPy sorts NaN to the end, as it does in float16 and float32, so the numbers before it are in order, and
#   np.argsort(w)[:k] are the k smallest.
# Versions: numpy 2.4.6, ml_dtypes 0.6.0 (the types of JAX's arrays on the host).
# What happens: types from outside NumPy are sorted by their own `<`, for which NaN is neither smaller nor larger than
#   anything, so it stays where the algorithm meets it, and the numbers before and after it are not merged.
#   np.median sorts in this way too and so overlooks the NaN, while np.max returns it and np.nanmax is right.
# Who is hurt: ranking of scores, logits or weights taken from JAX in bfloat16 where one is NaN: a diverged expert or
#   an empty mean lets others be chosen than the best, and np.median of a diverged batch looks sound.
# Remedy: w.astype(np.float32) before sorting, which is exact; jnp.sort puts NaN last.
#
# Output seen (1000 rows of 16 numbers, one of each row NaN; shares of rows):
#                  NaN at the end  numbers in order  the 4 smallest by argsort
#   float32        1.000           1.000             1.000
#   float16        1.000           1.000             1.000
#   bfloat16       0.056           0.132             0.205
#   float8_e4m3fn  0.056           0.133             0.211

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes
import numpy as np

rng = np.random.default_rng(0)
numbers = rng.normal(size=(1000, 16))
numbers[np.arange(1000), rng.integers(0, 16, size=1000)] = np.nan
found = {}
print(f"{'':<15}NaN at the end  numbers in order  the 4 smallest by argsort")
for kind in (np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    w = numbers.astype(kind)
    exact = w.astype(np.float32)
    ordered = np.sort(w, axis=1).astype(np.float32)
    rest = ordered[~np.isnan(ordered)].reshape(1000, 15)
    smallest = np.take_along_axis(exact, np.argsort(w, axis=1)[:, :4], axis=1)
    found[kind.__name__] = (
        float(np.mean(np.isnan(ordered[:, -1]))),
        float(np.mean(np.all(np.diff(rest, axis=1) >= 0, axis=1))),
        float(np.mean(np.all(np.sort(smallest, axis=1) == np.sort(exact, axis=1)[:, :4], axis=1))),
    )
    print("{:<15}{:<16.3f}{:<18.3f}{:.3f}".format(kind.__name__, *found[kind.__name__]))
for name in ("float32", "float16"):
    assert found[name] == (1, 1, 1)
for name in ("bfloat16", "float8_e4m3fn"):
    assert max(found[name]) < 0.6, "NaN is sorted to the end now"
PYTHON
