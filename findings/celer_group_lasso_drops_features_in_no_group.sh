#!/usr/bin/env bash
# celer.GroupLasso never fits features that are in no group: the two that make y keep the coefficient 0, silently.
#
# Guess: groups=[[0, 1], [2, 3]] for six features is refused, or leaves the others without a penalty, as NA does in R's
#   grplasso and -1 in the package group-lasso; confounders such as age and batch are often treated so.
# Versions: celer 0.7.4, scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# What happens: only features of groups are visited; others stay at 0. Nothing compares the lists with the width of X:
#   the fit converges and predicts. The residual that it leaves goes into the features that do have a group.
# Who is hurt: group lassos with covariates that should not be penalized, and lists of groups that were made before
#   columns were added.
# Remedy: regress such features out of X and y first, or give each its own group with a small weight (0 is refused);
#   check sorted(np.concatenate(groups)) == list(range(X.shape[1])).
#
# Output seen:
#   y = x0 + 5 x4 + 5 x5, groups [0, 1] and [2, 3]:
#   coefficients [ 1.69 -0.11  0.84  0.17  0.    0.  ], R^2 0.063
#   with each of the others in a group: [1. 0. 0. 0. 5. 5.], R^2 1.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 celer==0.7.4 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from celer import GroupLasso

X = np.random.default_rng(0).standard_normal((200, 6))
y = X @ np.array([1.0, 0, 0, 0, 5, 5])
fit = lambda groups: GroupLasso(groups=groups, alpha=1e-3, fit_intercept=False).fit(X, y)
some, all_of = fit([[0, 1], [2, 3]]), fit([[0, 1], [2, 3], [4], [5]])
print("y = x0 + 5 x4 + 5 x5, groups [0, 1] and [2, 3]:")
print(f"coefficients {some.coef_.round(2)}, R^2 {some.score(X, y):.3f}")
print(f"with each of the others in a group: {all_of.coef_.round(2) + 0}, R^2 {all_of.score(X, y):.3f}")
assert (some.coef_[4:] == 0).all() and some.score(X, y) < 0.1, "they are fitted now"
assert all_of.score(X, y) > 0.999
PYTHON
