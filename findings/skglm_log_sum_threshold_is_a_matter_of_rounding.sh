#!/usr/bin/env bash
# skglm's log-sum penalty removes coefficients up to 1.1 at alpha=0.25 and up to 3 at alpha=0.3: rounding decides.
#
# Guess: the threshold below which a coefficient is set to 0 grows smoothly with alpha, and what is kept has a smaller
#   objective than 0.
# Versions: skglm 0.5, numba 0.68.1, scikit-learn 1.9.1, numpy 2.4.6.
# What happens: the threshold is found by bisection from a = 2 sqrt(alpha) - eps on (prox_log_sum in
#   skglm/utils/prox_funcs.py). At a the number under a root is 0 up to rounding. Where it is rounded below 0, the
#   function is NaN there, "NaN < 0" is never true, and the search ends at its upper end, alpha / eps. So for about two
#   alphas of nine the threshold is alpha / eps, here up to 7 times the right one; for the others it is exact.
# Who is hurt: LogSumPenalty with eps below sqrt(alpha), for which it was made: alpha times the step of each feature
#   decides by its last bit whether a large coefficient is kept. Cross-validation over alpha sees jumps.
# Remedy: eps of at least sqrt(alpha * step), or MCPenalty and SCAD.
#
# Output seen (eps=0.1):
#   alpha   smallest kept   right
#   0.25    1.09            1.09
#   0.30    3.00            1.22
#   alphas from 0.01 to 2.00 with a wrong threshold: 45 of 200

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet skglm==0.5 numba==0.68.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from skglm.utils.prox_funcs import prox_log_sum

eps = 0.1


def smallest(alpha, keep):
    """The smallest x that is kept, to four digits; all larger ones are kept too."""
    low, high = 0.0, alpha / eps + 1
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if keep(middle, alpha) else (middle, high)
    return high


def given(x, alpha):
    return prox_log_sum(x, alpha, eps) != 0


def right(x, alpha):
    root = (x + eps) ** 2 / 4 - alpha
    if root < 0:
        return False
    z = (x - eps) / 2 + np.sqrt(root)
    return z > 0 and (z - x) ** 2 / 2 + alpha * np.log1p(z / eps) < x**2 / 2


print("alpha   smallest kept   right")
found = {alpha: (smallest(alpha, given), smallest(alpha, right)) for alpha in np.round(np.arange(1, 201) / 100, 2)}
for alpha in (0.25, 0.3):
    print(f"{alpha:<8.2f}{found[alpha][0]:<16.2f}{found[alpha][1]:.2f}")
wrong = [alpha for alpha, (one, other) in found.items() if abs(one - other) > 0.01]
print(f"alphas from 0.01 to 2.00 with a wrong threshold: {len(wrong)} of {len(found)}")
assert all(abs(found[alpha][0] - alpha / eps) < 0.01 for alpha in wrong)
assert 0.3 in wrong and 0.25 not in wrong and 20 < len(wrong) < 100, "the threshold is right now"
PYTHON
