#!/usr/bin/env bash
# scikit-learn's lasso_path is another path than that of Lasso, and keeps inputs that Lasso removes.
#
# Guess: lasso_path(X, y, alphas=alphas) gives for each alpha the coefficients of Lasso(alpha).fit(X, y), only faster,
#   as one step starts from the one before.
# Versions: scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: Lasso centers X and y first, for its intercept, and lasso_path (enet_path in
#   sklearn/linear_model/_coordinate_descent.py) takes them as they are and has no intercept. It returns none either, so
#   nothing looks missing. Coefficients then stand in for the offset of y: inputs whose mean is not 0 are kept for
#   it, and alpha has to be far larger to remove them. The grid of alphas that it chooses is of the uncentered data too.
#   enet_path and lars_path do the same. The Notes do not speak of it.
# Who is hurt: sparse heads and rankings of inputs read from the path of activations after a ReLU, of counts or of
#   pixels, none of which has the mean 0, and models picked on the path and refitted by Lasso at the same alpha.
# Remedy: lasso_path(X - X.mean(0), y - y.mean()); the solutions then agree to the tolerance.
#
# Output seen (200 rows, 50 inputs after a ReLU, y made of the first three and an offset of 10):
#          inputs kept                     sum of the coefficients
#   alpha  Lasso  lasso_path  and centered  Lasso  lasso_path  and centered
#   1.0    1      38          1            0.13   22.49       0.13
#   0.3    2      44          2            3.35   27.64       3.35
#   0.1    5      47          5            5.09   29.25       5.09

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from sklearn.linear_model import Lasso, enet_path, lars_path, lasso_path

rng = np.random.default_rng(0)
x = np.maximum(rng.normal(size=(200, 50)), 0)
y = x[:, :3] @ np.array([3.0, 2.0, 1.0]) + 10 + rng.normal(size=200)
alphas = [1.0, 0.3, 0.1]
precise = {"tol": 1e-10, "max_iter": 100_000}


def lasso(alpha):
    return Lasso(alpha, **precise).fit(x, y)


def centered(path, **options):
    return path(x - x.mean(0), y - y.mean(), alphas=alphas, **options)[1]


raw = lasso_path(x, y, alphas=alphas, **precise)[1]
mended = centered(lasso_path, **precise)
print("       inputs kept                     sum of the coefficients")
print("alpha  Lasso  lasso_path  and centered  Lasso  lasso_path  and centered")
for i, alpha in enumerate(alphas):
    ways = [lasso(alpha).coef_, raw[:, i], mended[:, i]]
    kept = [int((np.abs(w) > 1e-8).sum()) for w in ways]
    sums = [w.sum() for w in ways]
    print(f"{alpha:<7}{kept[0]:<7}{kept[1]:<12}{kept[2]:<13}{sums[0]:<7.2f}{sums[1]:<12.2f}{sums[2]:.2f}")
    assert np.allclose(ways[0], ways[2], atol=1e-4), "the centered path is another one now"
    assert kept[1] > 2 * kept[0], f"alpha {alpha}: lasso_path centers now"
assert np.allclose(enet_path(x, y, l1_ratio=1.0, alphas=alphas, **precise)[1], raw, atol=1e-4)
assert lasso_path(x, y)[0][0] > 2 * lasso_path(x - x.mean(0), y - y.mean())[0][0], "the grid is centered now"
assert not np.allclose(lars_path(x, y, method="lasso", alpha_min=0.3)[2][:, -1], lasso(0.3).coef_, atol=0.1)
PYTHON
