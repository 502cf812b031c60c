#!/usr/bin/env bash
# The BitRound filter of Zarr turns the NaN that a CUDA GPU computes into -0.0, and other NaN into infinity.
#
# Guess: rounding to fewer bits of the mantissa keeps NaN and infinity, whose exponent is all ones; a filter for data
#   with gaps, as of weather models, handles NaN.
# Versions: numcodecs 0.16.6, numpy 2.4.6.
# What happens: the bits are rounded as an integer: half a step is added and the rest masked (numcodecs/bitround.py).
#   With a mantissa of all ones the carry runs through the exponent into the sign, and what is left is -0.0, or
#   0.0 from a negative NaN. That pattern, 0x7fffffff, is the one NaN that CUDA's float32 arithmetic gives. NaN with
#   only low bits set are rounded to infinity. NumPy's own, 0x7fc00000, is kept, so tests by np.nan pass.
# Who is hurt: whoever stores a diverged run's weights, or losses and gradients of one, from a GPU: the NaN are gone
#   and the file looks pruned; fields with gaps, where the gaps become zeros.
# Remedy: a[numpy.isnan(a)] = numpy.nan before writing. With keepbits=23 nothing is changed.
#
# Output seen (float32, keepbits=10; the mean of three numbers of which one is NaN):
#   0x7fc00000   NumPy's nan        -> nan    mean nan
#   0x7fffffff   a GPU's nan        -> -0.0   mean 1.0
#   0xffffffff   the same, negative -> 0.0    mean 1.0
#   0x7f800001   smallest payload   -> inf    mean inf

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numcodecs==0.16.6 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from numcodecs import BitRound

codec = BitRound(10)
found = {}
for bits, name in (
    (0x7FC00000, "NumPy's nan"),
    (0x7FFFFFFF, "a GPU's nan"),
    (0xFFFFFFFF, "the same, negative"),
    (0x7F800001, "smallest payload"),
):
    values = np.array([1, 2, np.nan], np.float32)
    values.view(np.uint32)[2] = bits
    assert np.isnan(values[2])
    read = codec.decode(codec.encode(values))
    found[bits] = read[2]
    print(f"{bits:#010x}   {name:<18} -> {read[2]!s:<6} mean {read.mean()}")
assert np.isnan(found[0x7FC00000])
for bits, negative in ((0x7FFFFFFF, True), (0xFFFFFFFF, False)):
    assert found[bits] == 0 and np.signbit(found[bits]) == negative, "NaN is kept now"
assert np.isposinf(found[0x7F800001]), "NaN is kept now"
PYTHON
