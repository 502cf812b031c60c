#!/usr/bin/env bash
# Rewinding a pruned model of PyTorch from a flat vector puts biases into weights: pruning reorders the parameters.
#
# Guess: prune renames weight to weight_orig and adds a mask; the parameters stay the same, of the same sizes and in
#   the same order, so a vector taken before pruning fits after it.
# Versions: torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: the weight is deleted and registered again, behind the bias, so model.parameters() gives bias,
#   weight_orig. The number of entries is the same, so vector_to_parameters accepts the old vector and fills each layer
#   from the wrong place. prune.remove does not restore the order, nor does parametrize, removed or not. Optimizer
#   states go by position too: a state of the dense model loads, and where weight and bias have one shape (normalization
#   layers, pruned by every loop over modules with a weight) each trains with the other's moments; elsewhere the
#   next step raises. state_dict goes by name and is right.
# Who is hurt: lottery tickets and averages that rewind by parameters_to_vector, evolution strategies, Fisher
#   estimates as one vector, target networks updated by zip(one.parameters(), other.parameters()).
# Remedy: go by name (named_parameters, state_dict), or take the vector and make the optimizer after pruning.
#
# Output seen:
#   order before               weight bias
#   order pruned               bias weight_orig
#   order after prune.remove   bias weight
#   order with parametrize     bias parametrizations.weight.original
#   rewound by state_dict      entries as at the start: 1.000
#   rewound by a flat vector   entries as at the start: 0.000, error raised: none
#   Adam's moment for the scale of LayerNorm is that of its bias: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrize, prune, vector_to_parameters


def made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.Linear(32, 10))
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def train(model, optimizer):
    x = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(128) % 10).backward()
        optimizer.step()


def pruned(model):
    for module in model:
        prune.l1_unstructured(module, "weight", 0.5)
    return model


def order(name, module):
    found = " ".join(key for key, _ in module.named_parameters())
    print(f"{name:<26} {found}")
    return found


layer = nn.Linear(3, 2)
order("order before", layer)
prune.l1_unstructured(layer, "weight", 0.5)
moved = order("order pruned", layer)
prune.remove(layer, "weight")
order("order after prune.remove", layer)
layer = nn.Linear(3, 2)
parametrize.register_parametrization(layer, "weight", nn.Identity())
order("order with parametrize", layer)
assert moved == "bias weight_orig", "the order is kept now"


def as_at_start(model, start):
    same = [start[key.removesuffix("_orig")] == value for key, value in model.named_parameters()]
    return float(torch.cat([part.flatten() for part in same]).float().mean())


model, optimizer = made()
start = {key: value.detach().clone() for key, value in model.named_parameters()}
vector = parameters_to_vector(model.parameters()).detach().clone()
train(model, optimizer)
pruned(model)
masks = {key: value for key, value in model.state_dict().items() if key.endswith("_mask")}
names = [key for key, _ in model.named_parameters()]
model.load_state_dict({key: start[key.removesuffix("_orig")] for key in names} | masks)
named = as_at_start(model, start)
print(f"{'rewound by state_dict':<26} entries as at the start: {named:.3f}")
vector_to_parameters(vector, model.parameters())
flat = as_at_start(model, start)
print(f"{'rewound by a flat vector':<26} entries as at the start: {flat:.3f}, error raised: none")
assert named == 1 and flat < 0.1, "the vector fits now"

model, optimizer = made()
train(model, optimizer)
of_bias = optimizer.state[model[1].bias]["exp_avg"].clone()
kept = optimizer.state_dict()
pruned(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
optimizer.load_state_dict(kept)
swapped = torch.equal(optimizer.state[model[1].weight_orig]["exp_avg"], of_bias)
print("Adam's moment for the scale of LayerNorm is that of its bias:", swapped)
assert swapped, "the state is kept by name now"
PYTHON
