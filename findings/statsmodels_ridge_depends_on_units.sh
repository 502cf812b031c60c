#!/usr/bin/env bash
# statsmodels' ridge regression by GLM gives coefficients near 0 if the target is multiplied by 100; OLS and L1 do not.
#
# Guess: GLM(y, X).fit_regularized(alpha, L1_wt=0) of the Gaussian family is ridge regression, as that of OLS is and as
#   L1_wt=1e-6 is: coefficients of 100 y are 100 times those of y.
# Versions: statsmodels 0.15.0, numpy 2.4.6, scipy 1.17.1, pandas 2.3.3.
# What happens: with any L1 part the scale is held at 1, and the documented objective is least squares. With L1_wt=0
#   another function takes over (_fit_ridge in genmod/generalized_linear_model.py), whose likelihood estimates the
#   scale, so the penalty counts in units of the residual variance: next to nothing where the fit is good, and
#   everything where y is in large units. BFGS, the default, warns that it "may have failed" at a gradient of
#   1e-4; L-BFGS-B has the same result and no warning. Gamma models differ a little, Poisson and binomial ones agree.
# Who is hurt: a grid over L1_wt from 0 to 1, elastic nets against their own ridge end, returns or prices as targets.
# Remedy: L1_wt=1e-6, or OLS.
#
# Output seen (alpha 0.1; first coefficient, divided by the unit of y; the largest true one is 3):
#   y times  noise  OLS, L1_wt=0  GLM, L1_wt=1e-6  GLM, L1_wt=0  the same, L-BFGS-B
#   1        0.1    2.729         2.729            3.000         3.000
#   1        3.0    2.798         2.798            1.297         1.296
#   10       3.0    2.798         2.798            0.013         0.013
#   100      3.0    2.798         2.798            0.000         0.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet statsmodels==0.15.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3
"$folder/venv/bin/python" -W ignore - 2>"$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import numpy as np
import statsmodels.api as sm

rng = np.random.default_rng(0)
x = rng.normal(size=(500, 5))
noise = rng.normal(size=500)
found = {}
print("y times  noise  OLS, L1_wt=0  GLM, L1_wt=1e-6  GLM, L1_wt=0  the same, L-BFGS-B")
for unit, size in ((1, 0.1), (1, 3.0), (10, 3.0), (100, 3.0)):
    y = unit * (x @ np.array([3, -2, 1.5, 1, 0]) + size * noise)
    found[unit, size] = ols, near, ridge, other = [
        float(result.params[0]) / unit
        for result in (
            sm.OLS(y, x).fit_regularized(alpha=0.1, L1_wt=0),
            sm.GLM(y, x).fit_regularized(alpha=0.1, L1_wt=1e-6),
            sm.GLM(y, x).fit_regularized(alpha=0.1, L1_wt=0),
            sm.GLM(y, x).fit_regularized(alpha=0.1, L1_wt=0, opt_method="L-BFGS-B"),
        )
    ]
    print(f"{unit:<9}{size:<7}{ols:<14.3f}{near:<17.3f}{ridge:<14.3f}{other:.3f}")
    assert abs(ols - near) < 1e-3 and abs(ridge - other) < 0.01
assert abs(found[1, 3.0][0] - found[100, 3.0][0]) < 1e-6
assert found[1, 0.1][2] > 2.9 and found[1, 3.0][2] < 2, "the ridge of a GLM is that of OLS now"
assert found[100, 3.0][2] < 0.01
PYTHON
