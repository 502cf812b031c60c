#!/usr/bin/env bash
# torchao's AdamW8bit and AdamWFp8 take steps of 1000 and 9000 learning rates beside a large gradient.
#
# Guess: a step of Adam is about one learning rate whatever the size of the gradient. Eight bits for the moments make
#   it inexact by some per cent, four bits by more.
# Versions: torchao 0.18.0, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: 256 entries in a row share one scale. The second moment is a square, so a gradient 1000 times smaller
#   than the largest of its block has a second moment a million times smaller; the smallest numbers above 0 are 3e-7
#   of the largest in AdamW8bit, about 4e-6 in AdamWFp8, and what is below half of that is stored as 0. The first
#   moment is not, and is divided by the square root of 0 plus eps, 1e-8. AdamW4bit has no 0 in the second moment.
# Who is hurt: layers in which one input or one row has gradients a thousand times the others' (an unscaled feature,
#   a frequent token): their neighbors in memory jump away, and go on doing so.
# Remedy: AdamW4bit, or torch.optim.AdamW for such layers.
#
# Output seen (16 x 256 weights, gradients of 1e-3 in 255 columns and 1 in the first; 10 steps):
#   largest step / learning rate  gradients alike  255 of 256 a thousandth
#   AdamW                         1.0              1.0
#   AdamW8bit                     1.0              1008.4
#   AdamWFp8                      1.1              9291.0
#   AdamW4bit                     1.4              1.3

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 torchao==0.18.0 numpy==2.4.6
TORCHDYNAMO_DISABLE=1 "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import torch
from torchao.optim import AdamW4bit, AdamW8bit, AdamWFp8

rate = 1e-3


def largest(optimizer, small):
    """The largest step of an entry with a small gradient, in learning rates."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(16, 256))
    size = torch.full((16, 256), small)
    size[:, 0] = 1
    adam = optimizer([weight], lr=rate, weight_decay=0.0)
    steps = []
    for _ in range(10):
        before = weight.detach().clone()
        weight.grad = size * torch.randn(16, 256)
        adam.step()
        steps.append(float((weight.detach() - before)[:, 1:].abs().max()) / rate)
    return max(steps)


found = {}
print("largest step / learning rate  gradients alike  255 of 256 a thousandth")
for optimizer in (torch.optim.AdamW, AdamW8bit, AdamWFp8, AdamW4bit):
    found[optimizer.__name__] = largest(optimizer, 1.0), largest(optimizer, 1e-3)
    print("{:<30}{:<17.1f}{:.1f}".format(optimizer.__name__, *found[optimizer.__name__]))
assert max(one[0] for one in found.values()) < 2
assert found["AdamW"][1] < 2 and found["AdamW4bit"][1] < 2
assert found["AdamW8bit"][1] > 50 and found["AdamWFp8"][1] > 50, "small second moments are no longer stored as 0"
PYTHON
