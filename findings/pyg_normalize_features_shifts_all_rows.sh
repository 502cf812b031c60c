#!/usr/bin/env bash
# PyTorch Geometric's NormalizeFeatures does not make rows sum to 1: it first subtracts the graph's least feature.
#
# Guess: NormalizeFeatures "row-normalizes the attributes to sum-up to one": each row is divided by its sum, whatever
#   the others are, and a zero stays a zero.
# Versions: torch-geometric 2.8.1, torch 2.13.0, NumPy 2.4.6, on a CPU.
# What happens: the minimum over all entries of the graph is subtracted, then each row is divided by its sum or by 1,
#   whichever is larger. With a zero and no negative entry the first step does nothing, so bags of words are
#   right; otherwise one entry moves every row, and a row that is the minimum throughout becomes 0. Rows that
#   sum to less than 1, as tf-idf or fractions do, are left as they are.
# Who is hurt: whoever puts it into every pipeline, as the examples do. A single negative entry makes sparse features
#   dense; the same node has other features in another subgraph or batch, so training and inference disagree.
# Remedy: x / x.sum(-1, keepdim=True).clamp(min=1e-12), or torch.nn.functional.normalize(x, p=1, dim=-1).
#
# Output seen:
#   counts [[1, 0, 1], [0, 0, 2]]: sums [1.0, 1.0], zeros 3 of 3
#   one entry is -1: sums [1.0, 1.0], zeros 1 of 2
#   no zeros [[1, 1], [2, 2]]: sums [0.0, 1.0]
#   small [[0.125, 0.125, 0], [0, 2, 2]]: sums [0.25, 1.0]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch-geometric==2.8.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import NormalizeFeatures


def normalized(rows):
    x = NormalizeFeatures()(Data(x=torch.tensor(rows, dtype=torch.float32))).x
    return x.sum(-1).round(decimals=6).tolist(), int((x == 0).sum())


right = normalized([[1, 0, 1], [0, 0, 2]])
print(f"counts [[1, 0, 1], [0, 0, 2]]: sums {right[0]}, zeros {right[1]} of 3")
negative = normalized([[1, 0, 1], [0, -1, 2]])
print(f"one entry is -1: sums {negative[0]}, zeros {negative[1]} of 2")
full = normalized([[1, 1], [2, 2]])[0]
print(f"no zeros [[1, 1], [2, 2]]: sums {full}")
small = normalized([[0.125, 0.125, 0], [0, 2, 2]])[0]
print(f"small [[0.125, 0.125, 0], [0, 2, 2]]: sums {small}")
assert right == ([1, 1], 3), "it is different now"
assert negative[1] == 1 and full == [0, 1], "the minimum is not subtracted now"
assert small == [0.25, 1], "small sums become one now"
PYTHON
