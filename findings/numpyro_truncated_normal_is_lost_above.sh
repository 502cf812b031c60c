#!/usr/bin/env bash
# A normal distribution truncated to [6, 7] has an infinite density in NumPyro; the one truncated to [-7, -6] is right.
#
# Guess: TruncatedNormal(low=6, high=7) is the mirror image of TruncatedNormal(low=-7, high=-6), and far out in the tail
#   both are hard or neither is.
# Versions: numpyro 0.22.0, jax 0.10.2, jaxlib 0.10.2, scipy 1.17.1, numpy 2.4.6, on a CPU.
# What happens: the probability of the interval is the difference of the cdf at its ends, taken as logarithms (log_cdf).
#   Below the mean these are exact; above, both ends are 1 in float32. From 5.4 standard deviations on the difference is
#   0, log_prob is inf, and the mean and variance are NaN; before that it has a few digits: at 5 the density is off
#   by 4 %. For samples the code mirrors the interval, so they are right, and so is a normal with low alone.
# Who is hurt: fits of bounded or censored data whose mean drifts below the interval, as at a bad start or for an
#   outlier: the likelihood there is not small but inf, an optimizer is drawn there, and NUTS gets NaN.
# Remedy: negate data, mean and bounds where the interval lies above the mean.
#
# Output seen (log-density at 0.2 above the lower end, mean, median of samples):
#   interval    log_prob   of the mirror   SciPy     mean      SciPy     median    SciPy
#   [3, 4]      0.5925     0.5925          0.5925    3.2603    3.2605    3.197     3.198
#   [4, 5]      0.6313     0.6303          0.6303    4.2212    4.2168    4.158     4.159
#   [5, 6]      0.5872     0.6295          0.6295    4.9682    5.1831    5.130     5.131
#   [6, 7]      inf        0.5991          0.5991    nan       6.1572    6.111     6.111
#   [8, 9]      inf        0.4747          0.4747    nan       8.1212    8.084     8.085

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpyro==0.22.0 jax==0.10.2 jaxlib==0.10.2 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import numpy as np
import scipy.stats
from numpyro.distributions import TruncatedNormal

names = ("interval", "log_prob", "of the mirror", "SciPy", "mean", "SciPy", "median", "SciPy")
widths = (12, 11, 16, 10, 10, 10, 10, 0)
print("".join(f"{name:<{width}}" for name, width in zip(names, widths)))
found = {}
for low in (3, 4, 5, 6, 8):
    above = TruncatedNormal(0.0, 1.0, low=float(low), high=low + 1.0)
    below = TruncatedNormal(0.0, 1.0, low=-low - 1.0, high=-float(low))
    right = scipy.stats.truncnorm(low, low + 1)
    median = float(np.median(above.sample(jax.random.key(0), (4000,))))
    values = float(above.log_prob(low + 0.2)), float(below.log_prob(-low - 0.2)), float(right.logpdf(low + 0.2))
    row = *values, float(above.mean), float(right.mean())
    cells = [f"[{low}, {low + 1}]"] + [f"{one:.4f}" for one in row] + [f"{one:.3f}" for one in (median, right.median())]
    print("".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)))
    assert abs(values[1] - values[2]) < 1e-3 and abs(median - right.median()) < 0.01
    found[low] = row
assert abs(found[3][0] - found[3][2]) < 1e-3
assert abs(found[5][0] - found[5][2]) > 0.01, "the density at 5 standard deviations is right now"
assert found[6][0] == found[8][0] == np.inf and np.isnan(found[6][3]), "the upper tail has a density now"
PYTHON
