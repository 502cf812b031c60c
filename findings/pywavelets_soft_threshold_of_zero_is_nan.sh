#!/usr/bin/env bash
# PyWavelets' soft threshold turns zeros into NaN if the threshold is 0; the hard one leaves everything as it is.
#
# Guess: soft thresholding moves each number toward 0 by the threshold. By 0 it moves nothing, so the result is the
#   input, as with mode="hard".
# Versions: PyWavelets 1.9.0, numpy 2.4.6.
# What happens: mode="soft" and "garrote" multiply by 1 - threshold / |x|, which is 1 - 0 / 0 for zeros (pywt/
#   _thresholding.py): NaN, with a RuntimeWarning of NumPy. For any threshold above 0 the same division gives -inf,
#   which is cut to 0, and no warning. Numbers other than 0 are right.
# Who is hurt: denoising with an estimated threshold: sigma is the median of the finest coefficients, which is 0 for a
#   signal that is constant or linear for more than half of its length, a blank image, or one scaled by bytes. One NaN
#   coefficient makes a neighborhood NaN in the reconstruction, and a coarse one nearly all of the signal.
# Remedy: no call where the threshold is 0.
#
# Output seen (a signal with one step, denoised by the universal threshold of its finest coefficients):
#   threshold: 0.0
#   soft:    NaN in 62 of 64 samples
#   garrote: NaN in 62 of 64 samples
#   hard:    NaN in 0 of 64 samples, largest error 0.0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet PyWavelets==1.9.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import pywt

signal = np.where(np.arange(64) < 21, 1.0, 3.0)
coefficients = pywt.wavedec(signal, "haar")
sigma = np.median(abs(coefficients[-1])) / 0.6745
threshold = float(sigma * np.sqrt(2 * np.log(signal.size)))
print(f"threshold: {threshold}")
found = {}
for mode in ("soft", "garrote", "hard"):
    kept = [coefficients[0], *(pywt.threshold(level, threshold, mode) for level in coefficients[1:])]
    back = pywt.waverec(kept, "haar")
    found[mode] = int(np.isnan(back).sum())
    error = abs(back - signal).max()
    tail = "" if found[mode] else f", largest error {error:.1f}"
    print(f"{mode + ':':<8} NaN in {found[mode]} of {signal.size} samples{tail}")
assert threshold == 0 and (pywt.threshold(np.zeros(3), 1e-300, "soft") == 0).all() and found["hard"] == 0
assert found["soft"] == found["garrote"] == 62, "a threshold of 0 leaves zeros now"
PYTHON
