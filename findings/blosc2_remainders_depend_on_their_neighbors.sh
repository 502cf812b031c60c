#!/usr/bin/env bash
# In Blosc2 the integers `x % 3` are C's remainders alone, Python's beside `//`, and bits of floats beside abs or where.
#
# Guess: `array % 3` of a blosc2.NDArray is NumPy's remainder, with the sign of the divisor, and what else stands in
#   an expression does not change it; `x % 3 + abs(x)` of integers is a small integer.
# Versions: blosc2 4.14.1, numexpr 2.14.2, numpy 2.4.6.
# What happens: expressions are lazy, and two engines compute them. The one of Blosc2 takes the sign of the dividend;
#   what it lacks (`//`) sends the whole expression to numexpr, which has NumPy's remainder. With abs or where beside
#   the remainder, the first engine computes in float64 and the result is read as int64: 4611686018427387906 is 2.0
#   with 2 added to its bits. The dtype is int64 in all cases, and nothing is said.
# Who is hurt: whoever wraps indices, days or classes by `%` in a compressed array: negative ones stay negative, a
#   condition x % 3 == 2 misses them, and one more term in the expression gives other numbers.
# Remedy: array[:] % 3 in NumPy.
#
# Output seen (x from -4 to 4):
#   NumPy x % 3              [2 0 1 2 0 1 2 0 1]
#   Blosc2 x % 3             [-1  0 -2 -1  0  1  2  0  1]
#   ... + 0 * (x // 3)       [2 0 1 2 0 1 2 0 1]
#   NumPy x % 3 + abs(x)     [6 3 3 3 0 2 4 3 5]
#   Blosc2 x % 3 + abs(x)    [-4616189618054758396                    3 -4611686018427387902
#                             -4616189618054758399                    0  4607182418800017409
#                              4611686018427387906                    3  4607182418800017412]
#   the same less bits of C's remainder as float64: [4 3 2 1 0 1 2 3 4]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet blosc2==4.14.1 numexpr==2.14.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import blosc2
import numpy as np

x = np.arange(-4, 5)
packed = blosc2.asarray(x)
alone = (packed % 3)[:]
beside = (packed % 3 + 0 * (packed // 3))[:]
lazy = packed % 3 + abs(packed)
absolute = lazy[:]
for name, values in (
    ("NumPy x % 3", x % 3),
    ("Blosc2 x % 3", alone),
    ("... + 0 * (x // 3)", beside),
    ("NumPy x % 3 + abs(x)", x % 3 + abs(x)),
    ("Blosc2 x % 3 + abs(x)", absolute),
):
    print(f"{name:<24}", str(values).replace("\n", "\n" + " " * 25))
bits = np.fmod(x, 3).astype(np.float64).view(np.int64)
bits[np.fmod(x, 3) == 0] = 0
print("the same less bits of C's remainder as float64:", absolute - bits)
assert np.array_equal(alone, np.fmod(x, 3)), "Blosc2's remainder is no longer that of C"
assert np.array_equal(beside, x % 3) and lazy.dtype == absolute.dtype == np.int64
assert np.array_equal(absolute - bits, abs(x)) and abs(absolute).max() > 2**61, "the sum is one of integers now"
condition = (packed % 3 == 2)[:]
assert condition.sum() == 1 and np.sum(x % 3 == 2) == 3
PYTHON
