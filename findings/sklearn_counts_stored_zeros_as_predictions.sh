#!/usr/bin/env bash
# scikit-learn's precision of sparse predictions counts a stored zero as a positive, and accuracy does not.
#
# Guess: predictions of many labels may be CSR (y_pred is "array-like or sparse"), and a zero that is stored is a zero:
#   the scores are those of the array, or at least all go wrong together.
# Versions: scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: multilabel_confusion_matrix, on which precision, F1 and Jaccard rest, takes the number of stored
#   entries for the number of positives (count_nonzero in sklearn/utils/sparsefuncs.py is diff(indptr)). Agreements
#   are an elementwise product, which leaves zeros out, so recall, accuracy and Hamming loss are right. The check of the
#   target's type allows the zeros: type_of_target says "multilabel-indicator".
# Who is hurt: whoever thresholds sparse scores in place, scores.data = scores.data > 0.5, which stores a zero for each
#   score below: a precision of 1.00 is reported as 0.28.
# Remedy: eliminate_zeros() before scoring.
#
# Output seen (200 x 10 labels, scores stored where they are above 0.3, positives above 0.55):
#               array   CSR     CSR without stored zeros
#   precision   1.000   0.276   1.000
#   F1          0.813   0.393   0.813
#   Jaccard     0.685   0.245   0.685
#   recall      0.685   0.685   0.685
#   accuracy    0.490   0.490   0.490
#   Hamming     0.066   0.066   0.066

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy.sparse import csr_array
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, jaccard_score, precision_score, recall_score
from sklearn.utils.multiclass import type_of_target

rng = np.random.default_rng(0)
labels = (rng.random((200, 10)) < 0.2).astype(int)
scores = rng.random((200, 10)) * 0.5 + labels * 0.4
stored = csr_array(np.where(scores > 0.3, scores, 0))
stored.data = (stored.data > 0.55).astype(int)
clean = stored.copy()
clean.eliminate_zeros()
assert type_of_target(stored) == "multilabel-indicator"
scorers = {
    "precision": lambda y, p: precision_score(y, p, average="micro"),
    "F1": lambda y, p: f1_score(y, p, average="micro"),
    "Jaccard": lambda y, p: jaccard_score(y, p, average="micro"),
    "recall": lambda y, p: recall_score(y, p, average="micro"),
    "accuracy": accuracy_score,
    "Hamming": hamming_loss,
}
print("            array   CSR     CSR without stored zeros")
for name, score in scorers.items():
    dense = score(labels, stored.toarray())
    sparse, without = (score(csr_array(labels), predicted) for predicted in (stored, clean))
    print(f"{name:<12}{dense:<8.3f}{sparse:<8.3f}{without:.3f}")
    assert np.isclose(dense, without), name
    if name in ("precision", "F1", "Jaccard"):
        assert sparse < 0.6 * dense, f"{name} leaves stored zeros out now"
    else:
        assert np.isclose(sparse, dense), f"{name} counts stored zeros now"
PYTHON
