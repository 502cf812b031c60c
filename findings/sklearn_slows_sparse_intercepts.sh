#!/usr/bin/env bash
# scikit-learn's linear models fitted by stochastic gradients differ between an array and the same array in CSR.
#
# Guess: CSR is a way to store X; with the same random_state, SGDRegressor takes the same steps and ends at the same
#   coefficients up to rounding, as Ridge does with its exact solvers.
# Versions: scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: for sparse X the step of the intercept is multiplied by 0.01 (SPARSE_INTERCEPT_DECAY in
#   sklearn/linear_model/_base.py), however dense the data are: a CSR array without a single zero is treated so. It
#   holds for SGDClassifier, SGDRegressor and the solvers "sag" and "saga". Where the array's fit ends at an
#   intercept of 99 and an R2 of 0.96, that of the CSR array stops at 15 and -183.
# Who is hurt: sparse baselines compared with dense ones; probes fitted on sparse activations; whoever
#   changes the format to save memory and finds that accuracy changed.
# Remedy: center y, or a column of ones in X and fit_intercept=False; Ridge and the solvers lbfgs and newton-cg
#   agree.
#
# Output seen (y = X @ [0, 1, 2, 3, 4] + 100, 500 rows, no zeros in X):
#                            intercept, array  intercept, CSR  score, array  score, CSR
#   SGDRegressor, 5 epochs   52.455            0.992           -57.074       -247.927
#   SGDRegressor, 50 epochs  78.203            2.291           -11.151       -240.762
#   SGDRegressor, default    98.724            14.678          0.958         -183.336
#   Ridge                    100.120           100.120         0.999         0.999
#   logistic, saga           -6.487            -3.530          0.964         0.922
#   logistic, lbfgs          -6.484            -6.484          0.964         0.964

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression, Ridge, SGDRegressor

x = np.random.default_rng(0).random((500, 5)) + 0.01
y = x @ np.arange(5) + 100
label = x @ np.arange(5) > np.quantile(x @ np.arange(5), 0.3)
assert csr_array(x).nnz == x.size
models = {
    "SGDRegressor, 5 epochs": (lambda: SGDRegressor(random_state=0, max_iter=5, tol=None), y),
    "SGDRegressor, 50 epochs": (lambda: SGDRegressor(random_state=0, max_iter=50, tol=None), y),
    "SGDRegressor, default": (lambda: SGDRegressor(random_state=0), y),
    "Ridge": (lambda: Ridge(solver="lsqr"), y),
    "logistic, saga": (lambda: LogisticRegression(solver="saga", random_state=0, max_iter=20), label),
    "logistic, lbfgs": (lambda: LogisticRegression(solver="lbfgs"), label),
}
print(f"{'':<25}intercept, array  intercept, CSR  score, array  score, CSR")
found = {}
for name, (make, target) in models.items():
    fitted = [make().fit(data, target) for data in (x, csr_array(x))]
    intercepts = [float(np.ravel(model.intercept_)[0]) for model in fitted]
    scores = [model.score(x, target) for model in fitted]
    found[name] = intercepts
    print(f"{name:<25}{intercepts[0]:<18.3f}{intercepts[1]:<16.3f}{scores[0]:<14.3f}{scores[1]:.3f}")
for name, (dense, sparse) in found.items():
    if name in ("Ridge", "logistic, lbfgs"):
        assert abs(dense - sparse) < 0.01 * abs(dense), name
    else:
        assert abs(dense - sparse) > 0.1 * abs(dense), f"{name} fits both alike now"
PYTHON
