#!/usr/bin/env bash
# A sparsifier of torch.ao.pruning that has loaded a checkpoint saves the next one without masks.
#
# Guess: load_state_dict reads its argument, and state_dict() gives afterwards what was loaded, so a run can be resumed
#   any number of times and one checkpoint can start any number of models.
# Versions: torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: BaseSparsifier.load_state_dict takes the masks out of the caller's dict by pop() and keeps what is left
#   as its own state (torch/ao/pruning/sparsifier/base_sparsifier.py). The second checkpoint has no mask, and loading
#   it, or the same dict once more, leaves the masks of ones that prepare() made. model.state_dict() has the dense
#   weights and no mask (FakeSparsity.state_dict is empty on purpose, so it needs strict=False), and the model is dense
#   again, without an error.
# Who is hurt: fine-tuning under a fixed mask that is interrupted twice, and folds or ensembles started from one
#   loaded checkpoint.
# Remedy: give it a deep copy, and save the masks from the model: m.parametrizations.weight[0].mask.
#
# Output seen (a layer of 64 x 64 at sparsity 0.75):
#                                        density  masks in the checkpoint afterwards
#   pruned, and its checkpoint           0.25     1
#   resumed, and the dict it was given   0.25     0
#   resumed from the same dict           1.00     0
#   resumed, and its own checkpoint      0.25     0
#   resumed from that                    1.00     0
#   resumed from a deep copy             0.25     1
#   resumed from the same dict after it  0.25     0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import copy
import io

import torch
from torch import nn
from torch.ao.pruning import WeightNormSparsifier


def prepared():
    model = nn.Sequential(nn.Linear(64, 64))
    sparsifier = WeightNormSparsifier(sparsity_level=0.75, sparse_block_shape=(1, 1), zeros_per_block=1)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    return model, sparsifier


def resumed(checkpoint):
    model, sparsifier = prepared()
    model.load_state_dict(checkpoint["model"], strict=False)  # the masks are missing in it
    sparsifier.load_state_dict(checkpoint["sparsifier"])
    return model, sparsifier


def saved(model, sparsifier):
    """What torch.load gives after torch.save, as in a new process."""
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "sparsifier": sparsifier.state_dict()}, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


found = {}


def show(name, run, checkpoint):
    density = float((run[0][0].weight != 0).float().mean())
    masks = sum("mask" in state for state in checkpoint["sparsifier"]["state"].values())
    found[name] = density, masks
    print(f"{name:<37}{density:<9.2f}{masks}")


torch.manual_seed(0)
first = prepared()
first[1].step()
checkpoint = saved(*first)
print("                                     density  masks in the checkpoint afterwards")
show("pruned, and its checkpoint", first, checkpoint)
second = resumed(checkpoint)
show("resumed, and the dict it was given", second, checkpoint)
show("resumed from the same dict", resumed(checkpoint), checkpoint)
later = saved(*second)
show("resumed, and its own checkpoint", second, later)
show("resumed from that", resumed(later), later)
fresh = saved(*first)
copied = resumed(copy.deepcopy(fresh))
show("resumed from a deep copy", copied, fresh)
show("resumed from the same dict after it", resumed(fresh), fresh)

assert found["pruned, and its checkpoint"] == (0.25, 1)
assert found["resumed, and the dict it was given"] == (0.25, 0), "load_state_dict leaves its argument alone now"
assert found["resumed from the same dict"] == (1, 0)
assert found["resumed, and its own checkpoint"] == (0.25, 0), "a second checkpoint has masks now"
assert found["resumed from that"] == (1, 0)
assert found["resumed from a deep copy"] == (0.25, 1)
PYTHON
