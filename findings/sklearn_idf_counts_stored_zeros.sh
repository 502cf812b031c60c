#!/usr/bin/env bash
# scikit-learn's TfidfTransformer takes a term for a frequent one where its zeros are stored.
#
# Guess: a document frequency is the number of documents with a count above 0, so idf_ is that of the array, whatever
#   zeros the CSR matrix holds; and fit_transform of equal matrices gives equal features.
# Versions: scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: fit counts the stored entries of each column, np.bincount(X.indices) in _document_frequency of
#   sklearn/feature_extraction/text.py, and never looks at the values. Dense input becomes CSR first and so has no
#   stored zeros. The other transformers that were tried (MaxAbsScaler, StandardScaler, VarianceThreshold,
#   normalize) are the same with and without.
# Who is hurt: counts pruned in place, X.data[X.data < 2] = 0, the usual way to drop rare counts: the terms made rare by
#   it keep their low weights, and documents are ranked differently by cosine similarity. idf_ also differs between a
#   pipeline that goes through an array and one that stays sparse.
# Remedy: X.eliminate_zeros() before fit.
#
# Output seen (300 documents, 20 terms; counts below 2 set to 0 in the data):
#                 documents with the term  idf, CSR  idf, CSR without stored zeros  idf, array
#   term 4        2                        2.580     5.608                          5.608
#   term 10       20                       1.936     3.663                          3.663
#   term 19       177                      1.206     1.525                          1.525
#   documents whose nearest document is another one: 48 of 300

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.feature_selection import VarianceThreshold
from sklearn.preprocessing import MaxAbsScaler, StandardScaler, normalize

rng = np.random.default_rng(0)
stored = csr_array(rng.poisson(np.geomspace(0.1, 2, 20), size=(300, 20)).astype(float))
stored.data[stored.data < 2] = 0
clean = stored.copy()
clean.eliminate_zeros()
array = stored.toarray()

idf = {name: TfidfTransformer().fit(x).idf_ for name, x in (("CSR", stored), ("cleaned", clean), ("array", array))}
true = np.log((1 + 300) / (1 + (array > 0).sum(0))) + 1
print("              documents with the term  idf, CSR  idf, CSR without stored zeros  idf, array")
for term in (4, 10, 19):
    count = int((array[:, term] > 0).sum())
    print(f"term {term:<9}{count:<25}{idf['CSR'][term]:<10.3f}{idf['cleaned'][term]:<31.3f}{idf['array'][term]:.3f}")

nearest = []
for x in (stored, clean):
    features = TfidfTransformer().fit_transform(x)
    similar = (features @ features.T).toarray()
    np.fill_diagonal(similar, -1)
    nearest.append(similar.argmax(1))
moved = int((nearest[0] != nearest[1]).sum())
print(f"documents whose nearest document is another one: {moved} of 300")

assert np.allclose(idf["cleaned"], true) and np.allclose(idf["array"], true)
assert np.allclose(idf["CSR"], np.log(301 / (1 + np.bincount(stored.indices, minlength=20))) + 1)
assert (idf["CSR"] < true - 0.2).any() and moved > 10, "stored zeros are not counted any more"
for scale in (MaxAbsScaler(), StandardScaler(with_mean=False)):
    assert np.allclose(scale.fit_transform(stored).toarray(), scale.fit_transform(clean).toarray())
assert np.allclose(VarianceThreshold().fit(stored).variances_, VarianceThreshold().fit(clean).variances_)
assert np.allclose(normalize(stored).toarray(), normalize(clean).toarray())
PYTHON
