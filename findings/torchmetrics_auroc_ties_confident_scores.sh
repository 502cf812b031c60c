#!/usr/bin/env bash
# torchmetrics gives a perfect ranking an AUROC of 0.5 when its scores are above 17.
#
# Guess: AUROC and average precision depend on the order of the scores alone: adding a number to all of them, or
#   multiplying them by one, changes nothing, as in scikit-learn.
# Versions: torchmetrics 1.9.0, scikit-learn 1.9.1, torch 2.13.0, NumPy 2.4.6, on a CPU.
# What happens: if one score lies outside [0, 1] a sigmoid is applied to all, as the documentation says. In float32 it
#   is exactly 1 above 17 and 0 at -200, so all such scores are ties. In bfloat16 it already confuses 7 with 9.
#   Several classes or labels go through the same (softmax or sigmoid). Nothing is raised.
# Who is hurt: whoever ranks by anything but logits (distances, energies, anomaly scores, log-likelihoods, percents),
#   and confident networks, whose best examples become ties.
# Remedy: pass ranks divided by their number, or scores in float64.
#
# Output seen:
#   [0.1, 0.4, 0.2, 0.3]: AUROC 1.0, average precision 1.0
#   [1.0, 4.0, 2.0, 3.0]: AUROC 1.0, average precision 1.0
#   [21.0, 24.0, 22.0, 23.0]: AUROC 0.5, average precision 0.5
#   [-204.0, -201.0, -203.0, -202.0]: AUROC 0.5, average precision 0.5
#   scikit-learn: [1.0, 1.0, 1.0, 1.0]; float64 of the third: 1.0
#   bfloat16 [6, 9, 7, 8]: 0.75

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 scikit-learn==1.9.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional import auroc, average_precision

labels = torch.tensor([0, 1, 0, 1])
scores = [0.1, 0.4, 0.2, 0.3], [1.0, 4.0, 2.0, 3.0], [21.0, 24.0, 22.0, 23.0], [-204.0, -201.0, -203.0, -202.0]
found, right = [], []
for one in scores:
    given = torch.tensor(one)
    found.append([metric(given, labels, task="binary").item() for metric in (auroc, average_precision)])
    right.append(float(roc_auc_score(labels, one)))
    print(f"{one}: AUROC {found[-1][0]}, average precision {found[-1][1]}")
wide = auroc(torch.tensor(scores[2], dtype=torch.float64), labels, task="binary").item()
print(f"scikit-learn: {right}; float64 of the third: {wide}")
narrow = auroc(torch.tensor([6.0, 9.0, 7.0, 8.0], dtype=torch.bfloat16), labels, task="binary").item()
print(f"bfloat16 [6, 9, 7, 8]: {narrow}")
assert right == [1] * 4 and wide == 1 and found[:2] == [[1, 1]] * 2, "it is different now"
assert found[2:] == [[0.5, 0.5]] * 2 and narrow < 1, "large scores keep their order now"
PYTHON
