#!/usr/bin/env bash
# A pruned attention layer of PyTorch that loads a checkpoint still answers with the weights it had before.
#
# Guess: torch.nn.utils.prune keeps weight_orig and weight_mask in the state_dict and computes the weight from them
#   before each forward pass, so loading them, with "all keys matched", loads the layer.
# Versions: torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: the product is taken in a hook that runs when a module is called. nn.MultiheadAttention never calls its
#   out_proj, it reads out_proj.weight, so the product of the day of pruning stays there for ever. After loading, all
#   layers of a TransformerEncoder are new except this one. prune.remove repairs it, as it takes the
#   product again. A second training step raises "backward through the graph a second time"; when the layer was
#   pruned under no_grad, nothing is raised and out_proj never trains.
# Who is hurt: whoever prunes all nn.Linear of a transformer, which is what the tutorial's loop does.
# Remedy: prune.remove after loading; or torch.nn.utils.parametrize, whose weight is computed when it is read.
#
# Output seen (largest difference from the outputs of the saved model):
#   the same pruned model, loaded      <All keys matched successfully>, 1.0485
#   after prune.remove on both         0.0000
#   loaded, parametrize                <All keys matched successfully>, 0.0000
#   pruned under no_grad: gradient of out_proj None, of in_proj not None

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils import parametrize, prune


class Mask(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", (weight.abs() > weight.abs().median()).float())

    def forward(self, weight):
        return weight * self.mask


def linear(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def made(seed, way):
    torch.manual_seed(seed)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
    for module in linear(model):
        way(module)
    return model.eval()


def hooked(module):
    prune.l1_unstructured(module, "weight", 0.5)


def parametrized(module):
    parametrize.register_parametrization(module, "weight", Mask(module.weight.detach()))


def difference(one, two):
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((one(x) - two(x)).abs().max())


found = {}
for way in (hooked, parametrized):
    saved, loaded = made(0, way), made(1, way)
    keys = loaded.load_state_dict(saved.state_dict())
    found[way] = difference(saved, loaded)
    name = "the same pruned model, loaded" if way is hooked else "loaded, parametrize"
    print(f"{name:<34} {keys}, {found[way]:.4f}")
    if way is hooked:
        for module in linear(saved) + linear(loaded):
            prune.remove(module, "weight")
        repaired = difference(saved, loaded)
        print(f"{'after prune.remove on both':<34} {repaired:.4f}")
assert found[hooked] > 0.1, "the loaded weights are used now"
assert repaired == found[parametrized] == 0

layer = nn.MultiheadAttention(8, 2, batch_first=True)
with torch.no_grad():
    hooked(layer.out_proj)
x = torch.randn(2, 3, 8)
layer(x, x, x)[0].pow(2).sum().backward()
stuck, moving = layer.out_proj.weight_orig.grad, layer.in_proj_weight.grad
said = {True: "None", False: "not None"}
print(f"pruned under no_grad: gradient of out_proj {said[stuck is None]}, of in_proj {said[moving is None]}")
assert stuck is None and moving is not None, "out_proj trains now"
PYTHON
