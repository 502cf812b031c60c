#!/usr/bin/env bash
# torch.sparse.sum of a COO tensor stops at 256 in bfloat16 and wraps in int8, where tensor.sum() is right.
#
# Guess: torch.sparse.sum(t) is t.sum() for sparse tensors, with the same rules: integers are summed in int64, bfloat16
#   in float32, and the result is rounded once.
# Versions: torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: t.sum() of a COO tensor sums the values by that rule. torch.sparse.sum by rows adds them up in the dtype
#   itself, one after the other, and so does coalesce(), which torch.sparse.sum(t) calls first where one place has
#   several entries. In bfloat16 256 + 1 is 256. That the total of int8 is an int64 then hides that it has wrapped. A
#   CSR tensor's sum(1) is right.
# Who is hurt: degrees of a graph and numbers of kept weights per row; gradients of an embedding with sparse=True, which
#   have one entry per token: a frequent word's stops growing at 256 equal parts, as does to_dense().
# Remedy: t.float(), or t.long(), before the sum or coalesce.
#
# Output seen (row 0 has 1000 ones, or place 0 is 1000 times in the list):
#                                    bfloat16   int8
#   sparse.sum(row, 1)               256        -24
#   csr.sum(1)                       1000       1000
#   repeated: t.sum()                1000       1000
#   repeated: sparse.sum(t)          256        -24
#   repeated: t.coalesce()           256        -24
#   repeated: t.float().coalesce()   1000       1000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import torch

COUNT = 1000
found = {}
for dtype in (torch.bfloat16, torch.int8):
    zeros, ones = torch.zeros(COUNT, dtype=torch.long), torch.ones(COUNT, dtype=dtype)
    row = torch.sparse_coo_tensor(torch.stack([zeros, torch.arange(COUNT)]), ones, (2, COUNT)).coalesce()
    repeated = torch.sparse_coo_tensor(zeros[None], ones, (3,))
    sums = {
        "sparse.sum(row, 1)": torch.sparse.sum(row, 1).to_dense()[0],
        "csr.sum(1)": row.to_sparse_csr().sum(1, keepdim=True).to_dense()[0, 0],
        "repeated: t.sum()": repeated.sum(),
        "repeated: sparse.sum(t)": torch.sparse.sum(repeated),
        "repeated: t.coalesce()": repeated.coalesce().values()[0],
        "repeated: t.float().coalesce()": repeated.float().coalesce().values()[0],
    }
    for name, value in sums.items():
        found[name, dtype] = int(value)
print(f"{'':<33}bfloat16   int8")
for name in sums:
    values = found[name, torch.bfloat16], found[name, torch.int8]
    print(f"{name:<33}{values[0]:<11}{values[1]}")
    wrong = name in ("sparse.sum(row, 1)", "repeated: sparse.sum(t)", "repeated: t.coalesce()")
    assert values == ((256, -24) if wrong else (COUNT, COUNT)), f"{name} is different now"
PYTHON
