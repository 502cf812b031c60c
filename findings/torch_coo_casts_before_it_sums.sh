#!/usr/bin/env bash
# A torch COO tensor with repeated entries is cast entry by entry: 0.6 + 0.6 + 0.6 as an integer is 0.
#
# Guess: an uncoalesced tensor is the sum of its entries, and functions that are not linear coalesce first: torch.sqrt,
#   ceil and round of the three entries are those of 1.8. So are .int(), .to(torch.int64) and
#   .bool().
# Versions: torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: to(dtype) copies the list of values, converted one by one, and leaves the tensor uncoalesced,
#   so parts are cut off or rounded before they are added. For bool the entries are then added by
#   "or": 1 and -1 make True where the sum is 0. is_coalesced() is the only hint; the documentation of torch.sparse
#   says that several values at one place are to be read as their sum.
# Who is hurt: weighted edges in several parts counted as integers; masks as (updates).bool() of accumulated sparse
#   gradients, where what cancels is marked as changed.
# Remedy: x.coalesce().int().
#
# Output seen (place 0 has the three entries, place 1 none):
#   entries         to int32   coalesced, then   to bool   coalesced, then
#   0.6 0.6 0.6     0          1                 True      True
#   0.5 0.5 -1.0    -1         0                 True      False
#   2.5 -1.5 -1.0   0          0                 True      False
#   1.9 1.9 1.9     3          5                 True      True
#   torch.ceil of the first: 2, round 2, sqrt 1.342

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

cases = ([0.6, 0.6, 0.6], [0.5, 0.5, -1.0], [2.5, -1.5, -1.0], [1.9, 1.9, 1.9])
print("entries         to int32   coalesced, then   to bool   coalesced, then")
found = []
for entries in cases:
    x = torch.sparse_coo_tensor(torch.zeros((1, 3), dtype=torch.long), torch.tensor(entries), (2,))
    assert not x.is_coalesced()
    row = []
    for dtype in (torch.int32, torch.bool):
        row += [x.to(dtype).to_dense()[0].item(), x.coalesce().to(dtype).to_dense()[0].item()]
        assert row[-1] == x.to_dense().to(dtype)[0].item()
    found.append(row)
    print(f"{' '.join(map(str, entries)):<16}{row[0]:<11}{row[1]:<18}{row[2]!s:<10}{row[3]}")
x = torch.sparse_coo_tensor(torch.zeros((1, 3), dtype=torch.long), torch.tensor(cases[0]), (2,))
ceil, rounded, root = (f(x).to_dense()[0].item() for f in (torch.ceil, torch.round, torch.sqrt))
print(f"torch.ceil of the first: {ceil:g}, round {rounded:g}, sqrt {root:.3f}")
assert (ceil, rounded) == (2, 2) and abs(root - 1.8**0.5) < 1e-3
assert [row[1::2] for row in found] == [[1, True], [0, False], [0, False], [5, True]]
assert [row[::2] for row in found] == [[0, True], [-1, True], [0, True], [3, True]], "entries are summed first now"
PYTHON
