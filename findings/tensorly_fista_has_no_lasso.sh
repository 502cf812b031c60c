#!/usr/bin/env bash
# TensorLy's fista with a sparsity coefficient and without non-negativity makes no zeros, and prefers negative numbers.
#
# Guess: "Fast Iterative Shrinkage Thresholding Algorithm", with sparsity_coef times the L1 norm in its formula and
#   non_negative=False, is the lasso: it shrinks each coefficient toward 0, and small ones are 0.
# Versions: tensorly 0.10.0, numpy 2.4.6.
# What happens: the coefficient is added to the gradient (fista in tensorly/solvers/nnls.py), which is the derivative of
#   the L1 norm for positive numbers alone, and there is no thresholding. Without non-negativity the penalty is the
#   coefficient times the sum, which rewards negative numbers. With non_negative=True, the default, the result is
#   right, apart from 1e-8 in the place of 0 (epsilon, as documented).
# Who is hurt: sparse codes and sparse cores with entries of both signs: the objective is far above that of the lasso,
#   nothing is zero, and a larger coefficient makes negative entries larger.
# Remedy: scikit-learn's Lasso or sparse_encode; or two non-negative parts, [U, -U].
#
# Output seen (5 coefficients; objective with the L1 norm):
#   sparsity_coef   fista                               objective   lasso                               objective
#   0.0             1.00, -1.00, 0.10, -0.10, 0.00      0.00        1.00, -1.00, 0.10, -0.10, -0.00     0.00
#   4.0             0.03, -1.21, 0.05, -0.64, -0.18     12.38       0.55, -0.79, 0.00, 0.00, 0.00       6.83
#   8.0             -0.94, -1.42, -0.00, -1.19, -0.37   47.05       0.06, -0.61, 0.00, 0.00, 0.00       10.84

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorly==0.10.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from tensorly.solvers.nnls import fista

rng = np.random.default_rng(0)
basis = rng.normal(size=(20, 5))
target = basis @ np.array([1.0, -1.0, 0.1, -0.1, 0.0])


def lasso(penalty):
    x = np.zeros(5)
    for step in range(5000):
        i = step % 5
        slope = basis[:, i] @ (target - basis @ x + basis[:, i] * x[i])
        x[i] = (max(slope - penalty, 0) + min(slope + penalty, 0)) / (basis[:, i] @ basis[:, i])
    return x


print("sparsity_coef   fista                               objective   lasso                               objective")
found = {}
for penalty in (0.0, 4.0, 8.0):
    options = {"non_negative": False, "sparsity_coef": penalty, "n_iter_max": 5000, "tol": 1e-12}
    given = fista(basis.T @ target[:, None], basis.T @ basis, **options)[:, 0]
    right = lasso(penalty)
    values = [((basis @ x - target) ** 2).sum() / 2 + penalty * abs(x).sum() for x in (given, right)]
    texts = [", ".join(f"{value:.2f}" for value in x) for x in (given, right)]
    print(f"{penalty:<16}{texts[0]:<36}{values[0]:<12.2f}{texts[1]:<36}{values[1]:.2f}")
    found[penalty] = given, right, values
assert np.allclose(found[0.0][0], found[0.0][1], atol=1e-4)
for penalty in (4.0, 8.0):
    given, right, values = found[penalty]
    assert (right == 0).any() and values[0] > values[1] + 0.1 and given.all(), "it is the lasso now"
    assert np.allclose(given, np.linalg.solve(basis.T @ basis, basis.T @ target - penalty), atol=1e-3)
PYTHON
