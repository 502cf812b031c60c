#!/usr/bin/env bash
# After PEFT's merge_and_unload, a LoRA adapter of a pruned layer is gone: the model answers as before fine-tuning.
#
# Guess: merging adds B @ A to the weight of the layer, so the merged model answers as the one with the adapter (it is
#   denser than the mask, which one would check); where a weight cannot be merged into, PEFT raises.
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: with torch.nn.utils.prune the weight is no parameter, it is weight_orig * weight_mask, taken again
#   before each call; with parametrize it is computed whenever it is read. PEFT adds to that product. The first call
#   after merging overwrites it, and state_dict holds weight_orig alone. layer.weight read before that call shows the
#   merged one (prune), so a comparison of weights passes; safe_merge=True says nothing either.
# Who is hurt: LoRA on a pruned model, trained and measured with the adapter, merged for serving: the served and the
#   saved model are the pruned one without fine-tuning.
# Remedy: prune.remove (parametrize.remove_parametrizations) on each layer before get_peft_model, and compare outputs.
#
# Output seen (mean squared error on the task of fine-tuning):
#   base model         before   with adapter  merged   merged, saved, loaded
#   dense              2.48     0.00          0.00     0.00
#   prune              2.48     0.00          2.48     2.48
#   parametrize        2.48     0.00          2.48     2.48
#   prune.remove       2.48     0.00          0.00     0.00

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    peft==0.21.2 transformers==5.24.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import parametrize, prune


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def base(way):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.layer = nn.Linear(16, 16, bias=False)
    if way == "parametrize":
        small = model.layer.weight.abs() > model.layer.weight.abs().median()
        parametrize.register_parametrization(model.layer, "weight", Masked(small.float()))
    elif way != "dense":
        prune.l1_unstructured(model.layer, "weight", 0.5)
        if way == "prune.remove":
            prune.remove(model.layer, "weight")
    return model


generator = torch.Generator().manual_seed(1)
x = torch.randn(512, 16, generator=generator)
change = torch.randn(16, 2, generator=generator) @ torch.randn(2, 16, generator=generator) / 4
print("base model         before   with adapter  merged   merged, saved, loaded")
found = {}
for way in ("dense", "prune", "parametrize", "prune.remove"):
    model = base(way)
    with torch.no_grad():
        y = model(x) + x @ change  # the task: what the base model does, changed by two directions

    def error(one):
        with torch.no_grad():
            return float((one(x) - y).square().mean())

    before = error(model)
    adapted = get_peft_model(model, LoraConfig(target_modules=["layer"], r=4))
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], 0.02)
    for _ in range(500):
        optimizer.zero_grad()
        (adapted(x) - y).square().mean().backward()
        optimizer.step()
    trained = error(adapted.eval())
    merged = adapted.merge_and_unload(safe_merge=True)
    loaded = base(way)
    after = error(merged)
    loaded.load_state_dict(merged.state_dict())
    found[way] = before, trained, after, error(loaded)
    line = f"{way:<19}{before:<9.2f}{trained:<14.2f}{after:<9.2f}{found[way][3]:.2f}"
    print(line)
    assert trained < 0.01 and before > 0.5
for way in ("dense", "prune.remove"):
    assert max(found[way][2:]) < 0.01
for way in ("prune", "parametrize"):
    assert all(abs(one - found[way][0]) < 1e-4 for one in found[way][2:]), f"{way} keeps what is merged now"
PYTHON
