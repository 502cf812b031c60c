#!/usr/bin/env bash
# LightGBM and XGBoost take one of several entries at a place of a CSR matrix, where SciPy takes their sum.
#
# Guess: entries of one place are summed, as SciPy's documentation has it; its own example of a term-document matrix
#   appends a 1 for each word. A library that takes CSR sums them too, or refuses them as CatBoost does.
# Versions: lightgbm 4.7.0, xgboost-cpu 3.2.0, catboost 1.2.10, scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: indptr, indices and data go to the C side as they are, and one of the entries of a place is its value.
#   A count of 3 is three entries of 1, and so is 1. In training XGBoost moreover adds a row's gradient to the sums of a
#   feature once per entry (the gain of a split is 6 where it should be 2), so the rest, for the rows where the feature
#   is 0, can have a curvature near 0 or below: the predictions are 1e17 or so. nnz, shape and X.toarray() give no
#   hint; has_canonical_format does.
# Who is hurt: bags of words or features built by csr_matrix((ones, indices, indptr)), hashed features that collide,
#   and sampled graphs. scikit-learn's trees convert and are right, so a baseline looks fine.
# Remedy: X.sum_duplicates(), in place, before every fit and predict.
#
# Output seen (mean error for a target that is one of 9 counts, by the form in which it was trained and predicted):
#   trained on  predicted  LightGBM  XGBoost  tree of scikit-learn
#   summed      summed     0.00      0.00     0.00
#   summed      repeated   0.41      0.41     0.00
#   repeated    summed     0.15      > 1e6    0.00
#   repeated    repeated   0.15      > 1e6    0.00
#   CatBoost: CatBoostError

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lightgbm==4.7.0 xgboost-cpu==3.2.0 catboost==1.2.10 scikit-learn==1.9.1 \
    scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import catboost
import lightgbm
import numpy as np
import xgboost
from scipy import sparse
from sklearn.tree import DecisionTreeRegressor

rng = np.random.default_rng(0)
counts = rng.integers(0, 5, (400, 9)) * (rng.random((400, 9)) < 0.3)
target = counts[:, 0].astype(float)
words = [np.repeat(np.arange(9), row) for row in counts]
ends = np.cumsum([0] + [len(row) for row in words])
repeated = sparse.csr_matrix((np.ones(ends[-1]), np.concatenate(words), ends), shape=counts.shape)
summed = repeated.copy()
summed.sum_duplicates()
assert np.array_equal(repeated.toarray(), counts) and np.array_equal(summed.toarray(), counts)

LIGHTGBM = {"verbose": -1, "min_data_in_leaf": 3, "num_threads": 1}


def by_lightgbm(x):
    return lightgbm.train(LIGHTGBM, lightgbm.Dataset(x, label=target), 100).predict


def by_xgboost(x):
    data = xgboost.DMatrix(x, label=target, nthread=1)
    return xgboost.train({"max_depth": 4, "nthread": 1}, data, 100).inplace_predict


def by_tree(x):
    return DecisionTreeRegressor(random_state=0).fit(x, target).predict


print("trained on  predicted  LightGBM  XGBoost  tree of scikit-learn")
found = {}
forms = {"summed": summed, "repeated": repeated}
for trained, x in forms.items():
    models = [fit(x.copy()) for fit in (by_lightgbm, by_xgboost, by_tree)]
    for predicted, z in forms.items():
        errors = [np.abs(model(z.copy()) - target).mean() for model in models]
        found[trained, predicted] = errors
        texts = ["> 1e6" if error > 1e6 else f"{error:.2f}" for error in errors]
        print(f"{trained:<12}{predicted:<11}{texts[0]:<10}{texts[1]:<9}{texts[2]}")
try:
    catboost.CatBoostRegressor(iterations=2, verbose=0, thread_count=1).fit(repeated.copy(), target)
    raise AssertionError("CatBoost takes repeated entries now")
except catboost.CatBoostError as error:
    print("CatBoost:", type(error).__name__)
assert max(found["summed", "summed"]) < 0.01 and max(errors[2] for errors in found.values()) == 0
assert min(found["summed", "repeated"][:2]) > 0.2, "predict sums now"
assert found["repeated", "repeated"][0] > 0.1 and found["repeated", "repeated"][1] > 10, "training sums now"
PYTHON
