#!/usr/bin/env bash
# An XGBRegressor fitted with missing=0 and saved predicts something else when it is loaded again.
#
# Guess: save_model writes all that predictions depend on, and which value counts as missing is such a thing: the trees
#   send missing entries to a side of their own.
# Versions: xgboost-cpu 3.2.0, scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: `missing` is a parameter of the wrapper and is applied when an input becomes a DMatrix. It is not
#   in the file, and load_model of a new XGBRegressor leaves it at NaN, so zeros are compared with the thresholds
#   instead of going where missing entries went. pickle and CSR inputs, in which zeros are not stored, are unharmed.
# Who is hurt: models of counts and other sparse features fitted with missing=0 and served from the JSON or UBJ file:
#   predictions are wrong for every row with a zero, and no field of the loaded model tells that it was ever set.
# Remedy: XGBRegressor(missing=0) before load_model, or a pickle of the wrapper.
#
# Output seen:
#   R2 of the fitted model, on an array and in CSR                 0.99 0.99
#   loaded by XGBRegressor().load_model(path), missing is nan      0.21
#   the same on CSR                                                0.99
#   loaded by XGBRegressor(missing=0).load_model(path)             0.99

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet xgboost-cpu==3.2.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy import sparse
from xgboost import XGBRegressor

rng = np.random.default_rng(0)
x = rng.integers(0, 3, size=(500, 5)).astype(float)
y = 2 * (x[:, 0] == 0) + x[:, 1] + 0.1 * rng.normal(size=500)
csr = sparse.csr_matrix(x)
model = XGBRegressor(missing=0, n_estimators=30, max_depth=3).fit(x, y)
model.save_model("model.json")
loaded, told = XGBRegressor(), XGBRegressor(missing=0)
loaded.load_model("model.json")
told.load_model("model.json")


def show(name, *scores):
    print(f"{name:<62}", *(f"{score:.2f}" for score in scores))


show("R2 of the fitted model, on an array and in CSR", model.score(x, y), model.score(csr, y))
show(f"loaded by XGBRegressor().load_model(path), missing is {loaded.missing}", loaded.score(x, y))
show("the same on CSR", loaded.score(csr, y))
show("loaded by XGBRegressor(missing=0).load_model(path)", told.score(x, y))
assert model.score(x, y) > 0.9 and np.array_equal(told.predict(x), model.predict(x))
assert np.array_equal(loaded.predict(csr), model.predict(x))
assert np.isnan(loaded.missing) and loaded.score(x, y) < 0.5, "the file holds the missing value now"
PYTHON
