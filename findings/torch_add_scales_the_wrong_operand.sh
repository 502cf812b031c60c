#!/usr/bin/env bash
# torch.add(csr, dense, alpha=-1) is dense - csr in PyTorch, not csr - dense.
#
# Guess: torch.add(a, b, alpha=s) is a + s * b, whatever the layouts.
# Versions: torch 2.13.0, NumPy 2.4.6, on a CPU.
# What happens: with a CSR or CSC tensor first and a dense one second, the two are exchanged but alpha is not: it
#   scales the sparse tensor. The result is dense and has the right shape. With the dense tensor first it is right,
#   and so are two sparse ones; COO refuses sparse + dense.
# Who is hurt: csr - dense raises, so a difference is written as torch.add with alpha=-1, and has the wrong sign:
#   residuals, gradients and updates with a sparse target or weight point the other way.
# Remedy: dense first: -torch.add(dense, csr, alpha=-1).
#
# Output seen:
#   dense first operand: [[-9.0, -20.0], [-30.0, -38.0]]
#   CSR first operand: [[9.0, 20.0], [30.0, 38.0]]
#   CSC first operand: [[9.0, 20.0], [30.0, 38.0]]
#   dense minus CSR, the other order: [[9.0, 20.0], [30.0, 38.0]]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import torch

warnings.simplefilter("ignore")
a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
b = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
right = torch.add(a, b, alpha=-1).tolist()
print(f"dense first operand: {right}")
found = []
for name, layout in (("CSR", torch.sparse_csr), ("CSC", torch.sparse_csc)):
    found.append(torch.add(a.to_sparse(layout=layout), b, alpha=-1).tolist())
    print(f"{name} first operand: {found[-1]}")
other = torch.add(b, a.to_sparse_csr(), alpha=-1).tolist()
print(f"dense minus CSR, the other order: {other}")
assert right == (a - b).tolist() and other == (b - a).tolist(), "it is different now"
assert all(one == (b - a).tolist() for one in found), "alpha scales the second operand now"
PYTHON
