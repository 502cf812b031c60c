#!/usr/bin/env bash
# Captum's DeepLift is plain input x gradient for GELU, SiLU, ReLU6 or F.relu, and says nothing.
#
# Guess: DeepLift explains the difference to a baseline by rules for each nonlinear layer, so that attributions sum to
#   it; a layer for which Captum has no rule is refused, and a function that it cannot see at least warns.
# Versions: captum 0.9.0, torch 2.13.0, matplotlib 3.11.2, numpy 2.4.6, on a CPU.
# What happens: the rules hang on modules of a fixed list, SUPPORTED_NON_LINEAR in captum/attr/_core/deep_lift.py: ReLU,
#   ELU, LeakyReLU, Sigmoid, Tanh, Softplus, MaxPool and Softmax. All else goes through autograd as it is: with no
#   nonlinearity of the list the result is that of InputXGradient. The docstring says that "a limited number" of
#   activations is supported, and not which. The one warning speaks of hooks and comes in every case.
# Who is hurt: transformers, MobileNets and EfficientNets; pruning by DeepLift's relevance ranks by gradients; a
#   benchmark "DeepLift versus gradient" compares one method with itself.
# Remedy: return_convergence_delta=True, which is far from 0; IntegratedGradients.
#
# Output seen (10 inputs, 32 hidden units, 100 samples; mean of |sum of attributions - difference of outputs|):
#   nn.ReLU       0.0000   equal to input x gradient: False
#   nn.LeakyReLU  0.0000   equal to input x gradient: False
#   nn.Tanh       0.0000   equal to input x gradient: False
#   F.relu        0.0490   equal to input x gradient: True
#   nn.ReLU6      0.0490   equal to input x gradient: True
#   nn.GELU       0.0402   equal to input x gradient: True
#   nn.SiLU       0.0354   equal to input x gradient: True
#   nn.PReLU      0.0367   equal to input x gradient: True
#   mean |f(x) - f(0)| with nn.ReLU: 0.1185

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    captum==0.9.0 torch==2.13.0 matplotlib==3.11.2 numpy==2.4.6
HOME="$folder" "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import torch
from captum.attr import DeepLift, InputXGradient
from torch import nn
from torch.nn import functional


class Model(nn.Module):
    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(10, 32), nn.Linear(32, 1)
        self.activation = activation

    def forward(self, x):
        return self.last(self.activation(self.first(x)))


x = torch.randn(100, 10, generator=torch.Generator().manual_seed(1))
found = {}
for name, activation in (
    ("nn.ReLU", nn.ReLU()),
    ("nn.LeakyReLU", nn.LeakyReLU()),
    ("nn.Tanh", nn.Tanh()),
    ("F.relu", functional.relu),
    ("nn.ReLU6", nn.ReLU6()),
    ("nn.GELU", nn.GELU()),
    ("nn.SiLU", nn.SiLU()),
    ("nn.PReLU", nn.PReLU()),
):
    model = Model(activation)
    shares, delta = DeepLift(model).attribute(x, return_convergence_delta=True)
    same = torch.allclose(shares, InputXGradient(model).attribute(x), atol=1e-6)
    found[name] = float(delta.abs().mean()), same
    print(f"{name:<14}{found[name][0]:.4f}   equal to input x gradient: {same}")
model = Model(nn.ReLU())
print(f"mean |f(x) - f(0)| with nn.ReLU: {float((model(x) - model(0 * x)).abs().mean()):.4f}")
for name in ("nn.ReLU", "nn.LeakyReLU", "nn.Tanh"):
    assert found[name][0] < 1e-5 and not found[name][1], name
for name in ("F.relu", "nn.ReLU6", "nn.GELU", "nn.SiLU", "nn.PReLU"):
    assert found[name][0] > 0.01 and found[name][1], f"DeepLift has a rule for {name} now"
PYTHON
