#!/usr/bin/env bash
# torch.optim's load_state_dict casts masks, positions and float32 masters to the dtype of the parameter.
#
# Guess: loading what state_dict() gave brings the same tensors back, as nn.Module.load_state_dict does for buffers;
#   if anything is cast, then floating-point moments, and not integers and booleans.
# Versions: torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: where the parameter is floating, every tensor in its state but "step" becomes of its dtype, whatever
#   it was (Optimizer._process_value_according_to_param_policy in torch/optim/optimizer.py). For a bfloat16 weight
#   a float32 copy loses 16 bits, int64 positions above 256 are rounded to other positions, and a mask is no longer
#   boolean. NAdam, which has a float32 product in its state, goes on with a rounded one.
# Who is hurt: optimizers that keep master weights, masks or the positions of kept weights in their state, after the
#   first resumption: the run goes on and the numbers are near.
# Remedy: keep such tensors in buffers of the model or in a state_dict entry of one's own, or register a
#   load_state_dict post hook that puts them back.
#
# Output seen (a bfloat16 weight of 4096 entries, half of them kept):
#   optimizer  state         saved as    loaded as   entries that differ
#   MaskedSGD  step          int64       int64       0 of 1
#   MaskedSGD  mask          bool        bfloat16    0 of 4096
#   MaskedSGD  positions     int64       bfloat16    1674 of 2038
#   MaskedSGD  master        float32     bfloat16    2038 of 4096
#   NAdam      step          float32     float32     0 of 1
#   NAdam      mu_product    float32     bfloat16    1 of 1
#   NAdam      exp_avg       bfloat16    bfloat16    0 of 4096
#   NAdam      exp_avg_sq    bfloat16    bfloat16    0 of 4096

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import copy

import torch


class MaskedSGD(torch.optim.Optimizer):
    """Gradient descent on a float32 master of the weights that a mask keeps."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0)
                    state["mask"] = p.abs() > p.abs().median()
                    state["positions"] = state["mask"].nonzero()[:, 0]
                    state["master"] = p.float() * state["mask"]
                state["step"] += 1
                state["master"] -= group["lr"] * p.grad.float() * state["mask"]
                p.copy_(state["master"])


def train(kind, count, **options):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(4096, dtype=torch.bfloat16))
    optimizer = kind([p], **options)
    for _ in range(count):
        p.grad = torch.randn(4096, dtype=torch.bfloat16)
        optimizer.step()
    return p, optimizer


def resumed(kind, **options):
    """The state of a run of 20 steps, and the one that a new optimizer has after loading it."""
    p, optimizer = train(kind, 20, **options)
    other = kind([p], **options)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return optimizer.state[p], other.state[p]


found = {}
print("optimizer  state         saved as    loaded as   entries that differ")
for kind, options in ((MaskedSGD, {"lr": 1e-3}), (torch.optim.NAdam, {})):
    saved, loaded = resumed(kind, **options)
    for key, before in saved.items():
        after = loaded[key]
        changed = int((before.double() != after.double()).sum())
        found[kind, key] = before.dtype, after.dtype, changed
        kinds = [str(x.dtype).removeprefix("torch.") for x in (before, after)]
        print(f"{kind.__name__:<11}{key:<14}{kinds[0]:<12}{kinds[1]:<12}{changed} of {before.numel()}")

for key in ("mask", "positions", "master"):
    before, after, _ = found[MaskedSGD, key]
    assert before != torch.bfloat16 and after == torch.bfloat16, f"{key} keeps its dtype now"
assert found[MaskedSGD, "positions"][2] > 1000 and found[MaskedSGD, "master"][2] > 1000
assert found[MaskedSGD, "step"][0] == found[MaskedSGD, "step"][1]
assert found[torch.optim.NAdam, "mu_product"] == (torch.float32, torch.bfloat16, 1)
PYTHON
