#!/usr/bin/env bash
# Torch-Pruning removes channels that are all zero, and the output changes by as much as its own size.
#
# Guess: it follows each channel from layer to layer (DepGraph), so where channels are zero their removal is exact, and
#   where it cannot follow them it refuses: check_pruning_group is there for that.
# Versions: torch-pruning 1.6.1, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: it follows how many channels there are, not in which order. A flatten is taken as channels first, so
#   after permute(0, 2, 3, 1) it cuts the wrong columns of the next Linear, and through a channel shuffle the
#   wrong inputs of the next convolution. Shapes fit, check_pruning_group says True, no warning comes. A gate of
#   two halves, a mean over positions and the plain flatten are right to the last digits.
# Who is hurt: models written channels last, and ShuffleNets: accuracy after pruning is lower than the weights
#   removed explain, and fine-tuning hides it.
# Remedy: compare the outputs with those of the same channels zeroed before trusting a pruned network, and keep
#   layers where they differ in ignored_layers.
#
# Output seen (channels that are 0 removed; largest change of the output beside its largest value):
#   flatten(1)                 0.0000 of 0.55
#   mean over positions        0.0000 of 0.67
#   chunk and gate             0.0000 of 0.74
#   channels last, flatten(1)  1.2769 of 0.69
#   channel shuffle            0.6957 of 1.17

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 torch-pruning==1.6.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import torch_pruning as tp
from torch import nn

DEAD = [1, 5]


class Model(nn.Module):
    """A layer of 8 channels, a way from them to the next layer, and that layer."""

    def __init__(self, first, way, second):
        super().__init__()
        self.first, self.way, self.second = first, way, second

    def forward(self, x):
        return self.second(self.way(self.first(x)))


def shuffle(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 1)


def change(way, second):
    """The largest change of the output, and its largest value."""
    torch.manual_seed(0)
    model = Model(conv(3, 8), way, second()).eval()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        model.first.weight[DEAD] = 0
        model.first.bias[DEAD] = 0
    before = model(x).detach()
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    group = graph.get_pruning_group(model.first, tp.prune_conv_out_channels, idxs=DEAD)
    assert graph.check_pruning_group(group)
    group.prune()
    assert model.first.weight.shape[0] == 6
    return float((model(x) - before).abs().max()), float(before.abs().max())


ways = {
    "flatten(1)": (lambda x: x.flatten(1), lambda: nn.Linear(128, 5)),
    "mean over positions": (lambda x: x.mean((2, 3)), lambda: nn.Linear(8, 5)),
    "chunk and gate": (lambda x: nn.functional.glu(x, 1), lambda: conv(4, 5)),
    "channels last, flatten(1)": (lambda x: x.permute(0, 2, 3, 1).flatten(1), lambda: nn.Linear(128, 5)),
    "channel shuffle": (shuffle, lambda: conv(8, 5)),
}
found = {}
for name, way in ways.items():
    found[name], size = change(*way)
    print(f"{name:<26} {found[name]:.4f} of {size:.2f}")
for name in ("channels last, flatten(1)", "channel shuffle"):
    assert found.pop(name) > 0.1, f"{name} is cut right now"
assert max(found.values()) < 1e-6
PYTHON
