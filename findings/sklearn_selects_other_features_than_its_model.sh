#!/usr/bin/env bash
# SelectFromModel of scikit-learn drops features that the sparse model inside it kept.
#
# Guess: around a model with an L1 penalty SelectFromModel keeps the features whose coefficient is not 0, and an elastic
#   net with l1_ratio=0.99, or an SGDClassifier with l1_ratio=1.0, is such a model.
# Versions: scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: the default threshold goes by the estimator's name and arguments (_calculate_threshold in
#   sklearn/feature_selection/_from_model.py): "Lasso" in the name of its class, penalty="l1" or an ElasticNet with
#   l1_ratio exactly 1 gets 1e-5, everything else the mean of the absolute coefficients over all features, zeros
#   included. So it drops features with a coefficient, more of them the fewer zeros there are, and changes from one
#   rule to the other between l1_ratio=1 and 0.99. The 1e-5 is absolute: a Lasso that keeps an input in
#   hertz, with a coefficient of 1e-6, loses it here, however much it explains.
# Who is hurt: feature selection by a sparse model in a pipeline: the model in front reports one number of features
#   and the one behind gets another, without the inputs in large units.
# Remedy: SelectFromModel(estimator, threshold=1e-300), which keeps what is not 0, and StandardScaler in front.
#
# Output seen (200 rows, 30 features, of which the first three matter):
#                                   threshold  coefficients not 0  features kept  with threshold=1e-300  first kept
#   Lasso                           1e-05      5                   5              5                      True
#   Lasso, one feature in hertz     1e-05      5                   4              5                      False
#   ElasticNet, l1_ratio=1          1e-05      5                   5              5                      True
#   ElasticNet, l1_ratio=0.99       0.098      5                   3              5                      True
#   SGDClassifier, L1               1e-05      21                  21             21                     True
#   SGDClassifier, l1_ratio=1       0.99       21                  5              21                     True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import ElasticNet, Lasso, SGDClassifier

rng = np.random.default_rng(0)
x = rng.normal(size=(200, 30))
y = x[:, :3].sum(1) + 0.5 * rng.normal(size=200)
hertz = x * np.r_[1e6, np.ones(29)]
cases = {
    "Lasso": (Lasso(0.05), x, y),
    "Lasso, one feature in hertz": (Lasso(0.05), hertz, y),
    "ElasticNet, l1_ratio=1": (ElasticNet(0.05, l1_ratio=1.0), x, y),
    "ElasticNet, l1_ratio=0.99": (ElasticNet(0.05, l1_ratio=0.99), x, y),
    "SGDClassifier, L1": (SGDClassifier(penalty="l1", alpha=0.01, random_state=0), x, y > 0),
    "SGDClassifier, l1_ratio=1": (
        SGDClassifier(penalty="elasticnet", l1_ratio=1.0, alpha=0.01, random_state=0), x, y > 0
    ),
}
found = {}
print(f"{'':<32}threshold  coefficients not 0  features kept  with threshold=1e-300  first kept")
for name, (model, inputs, target) in cases.items():
    selector = SelectFromModel(model).fit(inputs, target)
    exact = SelectFromModel(model, threshold=1e-300).fit(inputs, target).get_support().sum()
    count = int((selector.estimator_.coef_ != 0).sum())
    kept = int(selector.get_support().sum())
    first = bool(selector.get_support()[0])
    found[name] = count, kept, first
    print(f"{name:<32}{selector.threshold_:<11.2g}{count:<20}{kept:<15}{exact:<23}{first}")
    assert exact == count

for name in ("Lasso", "ElasticNet, l1_ratio=1", "SGDClassifier, L1"):
    assert found[name][0] == found[name][1] and found[name][2]
for name in ("ElasticNet, l1_ratio=0.99", "SGDClassifier, l1_ratio=1"):
    assert found[name][1] < found[name][0], f"{name} keeps all that is not 0 now"
count, kept, first = found["Lasso, one feature in hertz"]
assert kept == count - 1 and not first, "the threshold is not absolute any more"
PYTHON
