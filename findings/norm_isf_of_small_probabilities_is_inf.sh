#!/usr/bin/env bash
# jax.scipy.stats.norm.isf, which is there for small probabilities, is inf from 3e-8 on down.
#
# Guess: isf(q) is the threshold that noise exceeds with probability q. It exists beside ppf because 1 - q rounds to 1:
#   by symmetry it is -ppf(q), exact for the smallest q, as in SciPy; sf, its inverse, is right down to 1e-38.
# Versions: jax 0.10.2, jaxlib 0.10.2, scipy 1.17.1, numpy 2.4.6, on a CPU.
# What happens: isf(q) is computed as ppf(1 - q). In float32 1 - q is a multiple of 6e-8, so isf is off by 0.6 % at
#   1e-7 and inf below 3e-8; with jax_enable_x64 the same happens below 1e-16. cauchy.isf, and cauchy.ppf too, has the
#   wrong sign there: cauchy.isf(1e-8) is -2.3e7 for 3.2e7. logistic.isf is right.
# Who is hurt: whoever sets a threshold by a p-value shared among many tests (Bonferroni): 0.05 over ten million weights
#   is 5e-9, the threshold is inf, and nothing is ever selected; nothing is raised.
# Remedy: -norm.ppf(q).
#
# Output seen:
#   q        isf       -ppf      SciPy     sf(SciPy's)
#   1e-03    3.0902    3.0902    3.0902    1.00e-03
#   1e-06    4.7508    4.7534    4.7534    1.00e-06
#   1e-07    5.1666    5.1993    5.1993    1.00e-07
#   1e-08       inf    5.6120    5.6120    1.00e-08
#   1e-20       inf    9.2623    9.2623    1.00e-20
#   cauchy.isf(1e-08): -2.3e+07, SciPy 3.2e+07

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import scipy.stats
from jax.scipy.stats import cauchy, norm

print("q        isf       -ppf      SciPy     sf(SciPy's)")
found, mirrored, right = {}, {}, {}
for q in (1e-3, 1e-6, 1e-7, 1e-8, 1e-20):
    found[q], mirrored[q] = float(norm.isf(q)), -float(norm.ppf(q))
    right[q] = float(scipy.stats.norm.isf(q))
    back = float(norm.sf(right[q]))
    print(f"{q:.0e}{found[q]:>10.4f}{mirrored[q]:>10.4f}{right[q]:>10.4f}    {back:.2e}")
    assert abs(mirrored[q] / right[q] - 1) < 1e-4 and abs(back / q - 1) < 1e-3
assert abs(found[1e-3] / right[1e-3] - 1) < 1e-4
tail = float(cauchy.isf(1e-8)), float(scipy.stats.cauchy.isf(1e-8))
print(f"cauchy.isf(1e-08): {tail[0]:.1e}, SciPy {tail[1]:.1e}")
assert tail[0] < 0 < tail[1], "cauchy.isf has the right sign now"
assert found[1e-8] == found[1e-20] == np.inf, "small probabilities have a threshold now"
PYTHON
