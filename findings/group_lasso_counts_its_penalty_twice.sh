#!/usr/bin/env bash
# The coefficients of group-lasso do not minimize its own loss: they are those of twice the penalty.
#
# Guess: GroupLasso(group_reg=a, l1_reg=b).fit makes loss(X, y), half the mean squared error plus the two penalties, as
#   small as it can. With groups of one column that is scikit-learn's Lasso(alpha=a).
# Versions: group-lasso 1.5.0, scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: each step goes along half of the gradient of the error (0.5 * smooth_grad in group_lasso/_fista.py),
#   while the penalties are taken whole. It converges, to the minimum of half the error plus the penalties, for the
#   group penalty and the L1 penalty alike; LogisticGroupLasso uses the same steps. loss() at scikit-learn's
#   coefficients is lower than at its own.
# Who is hurt: whoever takes a penalty from a paper or another library, compares numbers of groups, or reads loss(): the
#   model is as sparse as at twice the penalty.
# Remedy: half of the penalties.
#
# Output seen (30 groups of one column; nonzero coefficients and loss() of GroupLasso at them):
#   penalty 0.1                   nonzero   loss
#   GroupLasso(group_reg=0.1)     16        1.2081
#   GroupLasso(group_reg=0.05)    18        1.1149
#   Lasso(alpha=0.1)              18        1.1149
#   Lasso(alpha=0.2)              16        1.2081

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet group-lasso==1.5.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from group_lasso import GroupLasso
from sklearn.linear_model import Lasso

rng = np.random.default_rng(0)
features = rng.normal(size=(100, 30))
target = features @ (rng.normal(size=30) * 0.3) + rng.normal(size=100)
penalty = 0.1
options = {"groups": np.arange(30), "n_iter": 20000, "tol": 1e-10, "supress_warning": True}
fitted = {
    "GroupLasso(group_reg=0.1)": GroupLasso(group_reg=penalty, l1_reg=0, **options),
    "GroupLasso(group_reg=0.05)": GroupLasso(group_reg=penalty / 2, l1_reg=0, **options),
    "Lasso(alpha=0.1)": Lasso(alpha=penalty, tol=1e-10),
    "Lasso(alpha=0.2)": Lasso(alpha=2 * penalty, tol=1e-10),
}
judge = GroupLasso(group_reg=penalty, l1_reg=0, **options).fit(features, target)
print("penalty 0.1                   nonzero   loss")
found, losses = {}, {}
for name, model in fitted.items():
    model.fit(features, target)
    found[name] = model.coef_.ravel()
    judge.coef_ = found[name].reshape(-1, 1)
    judge.intercept_ = np.array(model.intercept_).reshape(1)
    losses[name] = float(judge.loss(features, target.reshape(-1, 1)))
    print(f"{name:<30}{int((abs(found[name]) > 1e-6).sum()):<10}{losses[name]:.4f}")
names = list(fitted)
assert np.allclose(found[names[1]], found[names[2]], atol=1e-4)
assert losses[names[0]] > losses[names[2]] + 1e-3, "it minimizes its loss now"
assert np.allclose(found[names[0]], found[names[3]], atol=1e-4), "the penalty counts once now"
PYTHON
