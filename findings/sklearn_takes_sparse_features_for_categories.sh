#!/usr/bin/env bash
# scikit-learn's mutual_info_classif finds all that there is to know about the label in noise, if the noise is CSR.
#
# Guess: a format does not change what is measured: continuous features get the nearest-neighbor estimate, and
#   noise gets about 0, whether stored as an array or as CSR.
# Versions: scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: discrete_features="auto" means continuous for an array and discrete for a sparse matrix, as the
#   docstring does say. Each value of a feature is then a category of its own, one per example, and tells the label
#   of that example: the estimate is the entropy of the label for any column without ties.
#   With discrete_features=False a sparse matrix is refused, so continuous and sparse is not to be had.
#   After a ReLU the zeros share a category, and noise still scores half of it.
# Who is hurt: who ranks sparse activations or inputs by information about the label, or selects by SelectKBest: the
#   ranking is one of how many zeros a column has.
# Remedy: pass X.toarray(), column by column where memory is short.
#
# Output seen (300 examples):
#   entropy of the label: 0.681
#                            label + noise   noise   noise
#   array                    0.517           0.000   0.032
#   CSR                      0.681           0.681   0.681
#   array after ReLU         0.466           0.008   0.003
#   CSR after ReLU           0.555           0.339   0.340
#   CSR, discrete_features=False: ValueError

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy.sparse import csr_array
from sklearn.feature_selection import mutual_info_classif

rng = np.random.default_rng(0)
x = rng.normal(size=(300, 3))
label = (x[:, 0] + 0.3 * rng.normal(size=300) > 0).astype(int)
share = np.bincount(label) / len(label)
entropy = -(share * np.log(share)).sum()
print(f"entropy of the label: {entropy:.3f}")
print(f"{'':<25}label + noise   noise   noise")
found = {}
for name, data in {
    "array": x,
    "CSR": csr_array(x),
    "array after ReLU": np.maximum(x, 0),
    "CSR after ReLU": csr_array(np.maximum(x, 0)),
}.items():
    found[name] = mutual_info_classif(data, label, random_state=0)
    print(f"{name:<25}" + "".join(f"{value:<{n}.3f}" for value, n in zip(found[name], (16, 8, 5))))
try:
    mutual_info_classif(csr_array(x), label, discrete_features=False)
    refused = "no error"
except ValueError as error:
    refused = type(error).__name__
print("CSR, discrete_features=False:", refused)

assert found["array"][0] > 0.4 and found["array"][1:].max() < 0.05 and found["array after ReLU"][1:].max() < 0.05
assert np.allclose(found["CSR"], entropy), "sparse features are taken as continuous now"
assert found["CSR after ReLU"][1:].min() > 0.2
assert refused == "ValueError", "sparse and continuous is supported now"
PYTHON
