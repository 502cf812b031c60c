#!/usr/bin/env bash
# torch.ones_like of a CSR tensor is 0 where nothing is stored, and its new_ones gives zeros only.
#
# Guess: ones_like(x) is 1 everywhere, whatever the layout, or refuses, as it does for a COO tensor; fill_(3) makes
#   every entry 3.
# Versions: torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: the new tensor is empty_like(x), which for CSR, CSC, BSR and BSC copies the positions, and what is
#   filled is its list of values. So ones_like, full_like, randn_like, fill_ and normal_ keep the pattern. In blocks
#   (BSR) a zero inside a stored block becomes 1, one outside stays 0. new_ones makes a tensor that stores nothing,
#   and fills that. The dense layout gives what the name says, and COO raises NotImplementedError.
# Who is hurt: masks and degrees by torch.ones_like(weight); A @ ones_like(B); noise added by randn_like, which falls on
#   kept weights alone; code that is tested on dense tensors.
# Remedy: torch.ones(x.shape, dtype=x.dtype, device=x.device); ones_like(x, layout=torch.strided) is refused.
#
# Output seen (2 x 4, three entries stored; sums over all 8 entries):
#                strided   csr   bsr (1 x 2)   coo
#   ones_like    8         3     6             NotImplementedError
#   full_like 2  16        6     12            NotImplementedError
#   fill_ 3      24        9     18            NotImplementedError
#   new_ones     8         0     RuntimeError  NotImplementedError

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import torch

x = torch.tensor([[1.0, 0, 0, 0], [0, 5, 6, 0]])
layouts = {"strided": x, "csr": x.to_sparse_csr(), "bsr": x.to_sparse_bsr((1, 2)), "coo": x.to_sparse_coo()}
makers = {
    "ones_like": torch.ones_like,
    "full_like 2": lambda x: torch.full_like(x, 2),
    "fill_ 3": lambda x: x.clone().fill_(3),
    "new_ones": lambda x: x.new_ones(x.shape),
}
print(f"{'':<13}strided   csr   bsr (1 x 2)   coo")
found = {}
for name, make in makers.items():
    for layout, y in layouts.items():
        try:
            made = make(y)
            found[name, layout] = int((made if layout == "strided" else made.to_dense()).sum())
        except (NotImplementedError, RuntimeError) as error:
            found[name, layout] = type(error).__name__
    row = [str(found[name, layout]) for layout in layouts]
    print(f"{name:<13}{row[0]:<10}{row[1]:<6}{row[2]:<14}{row[3]}")
for name, value in (("ones_like", 1), ("full_like 2", 2), ("fill_ 3", 3)):
    assert found[name, "strided"] == 8 * value
    assert found[name, "csr"] == 3 * value, f"{name} fills all now"
    assert found[name, "bsr"] == 6 * value
assert found["new_ones", "csr"] == 0, "new_ones gives ones now"
PYTHON
