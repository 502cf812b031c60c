#!/usr/bin/env bash
# nncf.prune with a ratio of 10 %, or of 0, prunes all of a layer that starts at zero, which then never trains.
#
# Guess: the ratio bounds what is pruned: of each tensor in the local mode, of all together in the global mode. Ties are
#   broken somehow, and a ratio of 0 prunes nothing.
# Versions: nncf 3.4.0, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: the k-th smallest magnitude is the threshold, and what is not above it goes. In a layer of zeros that is
#   everything. In the global mode magnitudes are divided by the tensor's norm, 0 / 0 is NaN, and NaN is above nothing;
#   as kthvalue ranks NaN highest, the other layers are pruned for it too. The masks are never 1 again by training
#   alone: the layer gets no gradient, nor does anything before it if it lies on the only way. A ratio of 0 also takes
#   the smallest weight of a common layer, and all its ties. torch.nn.utils.prune counts, and prunes 10 % of the zeros.
# Who is hurt: pruning from birth, or of adapters: heads, gates, the last layer of residual branches and LoRA's B
#   start at zero. pruning_statistic shows 1.000 for the layer; accuracy shows chance.
# Remedy: ignored_scope for such layers, or small random weights in them before nncf.prune.
#
# Output seen:
#                        pruned: first  last (zeros)  loss after training
#   not pruned                   0.000  0.000         0.001
#   local, ratio 0.0             0.001  1.000         0.999
#   local, ratio 0.1             0.101  1.000         0.999
#   global, ratio 0.0            0.001  1.000         0.999
#   global, ratio 0.1            0.125  1.000         0.999
#   torch's prune, 0.1           0.100  0.102         0.002

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 nncf==3.4.0 numpy==2.4.6
cd "$folder"
HOME="$folder" "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import nncf
import torch
from torch import nn
from torch.nn.utils import prune

torch.manual_seed(0)
x = torch.randn(256, 16)
y = x[:, :4].abs()
y = (y - y.mean()) / y.std()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(16, 64), nn.Linear(64, 4)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x):
        return self.last(self.first(x).relu())


def trained(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss)


def by_nncf(model, mode, ratio):
    mode = getattr(nncf.PruneMode, f"UNSTRUCTURED_MAGNITUDE_{mode}")
    model = nncf.prune(model, mode=mode, ratio=ratio, examples_inputs=x)
    masks = {len(value): value for key, value in model.state_dict().items() if key.endswith("binary_mask")}
    return model, [float(1 - masks[rows].float().mean()) for rows in (64, 4)]


def by_torch(model):
    for layer in (model.first, model.last):
        prune.l1_unstructured(layer, "weight", 0.1)
    return model, [float(1 - layer.weight_mask.mean()) for layer in (model.first, model.last)]


print(f"{'':<21}pruned: first  last (zeros)  loss after training")
found = {}


def row(name, model, gone):
    found[name] = *gone, trained(model)
    print(f"{name:<29}{gone[0]:.3f}  {gone[1]:.3f}         {found[name][2]:.3f}")


row("not pruned", Model(), [0.0, 0.0])
for mode in ("local", "global"):
    for ratio in (0.0, 0.1):
        row(f"{mode}, ratio {ratio}", *by_nncf(Model(), mode.upper(), ratio))
row("torch's prune, 0.1", *by_torch(Model()))

for name, (first, last, loss) in found.items():
    if "ratio" in name:
        assert last == 1 and 0 < first < 0.2 and loss > 0.9, f"{name}: zeros are kept now"
    else:
        assert last < 0.11 and loss < 0.1, name
PYTHON
