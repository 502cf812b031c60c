#!/usr/bin/env bash
# Equinox's AdaptiveAvgPool has other windows than PyTorch's unless the output's size divides the input's.
#
# Guess: a layer with the name, arguments and purpose of torch.nn.AdaptiveAvgPool computes the same, so weights of a
#   ported network can be used as they are.
# Versions: Equinox 0.13.8, jax 0.10.2, torch 2.13.0.
# What happens: PyTorch's window i goes from floor(i n / m) to ceil((i + 1) n / m); neighbors may overlap. Equinox cuts
#   n entries into m parts without overlap, the longer ones first. Of 10 entries in 3 windows PyTorch averages
#   0-3, 3-6 and 6-9, Equinox 0-3, 4-6 and 7-9. The same holds for maxima, and in each axis of an image.
# Who is hurt: whoever ports pyramid pooling (bins 1, 2, 3, 6), VGG, AlexNet or SqueezeNet and feeds another size of
#   image than 224: features are shifted, with the right shape.
# Remedy: average over PyTorch's windows by hand, or resize so that the number of outputs divides that of inputs.
#
# Output seen:
#   10 entries in 3 windows: PyTorch [1.5, 4.5, 7.5], Equinox [1.5, 5.0, 8.0]
#   10 entries in 4 windows: PyTorch [1.0, 3.0, 6.0, 8.0], Equinox [1.0, 4.0, 6.5, 8.5]
#   10 entries in 5 windows: equal

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet equinox==0.13.8 jax==0.10.2 numpy==2.4.6 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import equinox as eqx
import jax.numpy as jnp
import torch


def pools(size):
    x = [[float(i) for i in range(10)]]
    theirs = torch.nn.AdaptiveAvgPool1d(size)(torch.tensor(x))[0].tolist()
    ours = eqx.nn.AdaptiveAvgPool1d(size)(jnp.array(x))[0].tolist()
    return theirs, ours


for size in (3, 4):
    theirs, ours = pools(size)
    print(f"10 entries in {size} windows: PyTorch {theirs}, Equinox {ours}")
    assert theirs != ours, "the windows are PyTorch's now"
theirs, ours = pools(5)
print(f"10 entries in 5 windows: {'equal' if theirs == ours else 'different'}")
assert theirs == ours, "it is different now"
PYTHON
