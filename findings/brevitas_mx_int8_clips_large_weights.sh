#!/usr/bin/env bash
# brevitas' MXInt8Weight reads weights of 1.25, 1.5 and 1.99 in a group as 0.992; unsigned, it reads all above 0 as 0.
#
# Guess: MXInt8 is the microscaling format of the OCP specification: the shared exponent is that of the largest weight
#   of a group of 32, and an element has six binary places up to 1 + 63/64, so nothing is clipped and errors are at
#   most 1/128 of the power of two below the largest weight.
# Versions: brevitas 0.13.4, torch 2.13.0, Python 3.11.
# What happens: the largest magnitude is rounded down to a power of two (FloorSte in brevitas/quant/mx_quant_ocp.py) and
#   then divided by 128, so the integers end at this power: everything above it, up to a factor of 2, becomes that
#   power. In ShiftedMXUInt8Weight the range, maximum minus minimum, is rounded down in the same way: what lies further
#   than that from the minimum is cut off, which in a group from -1.99 to 1.99 is everything above 0.
#   MXInt8WeightMSE gives the same. MXFloat8e4m3Weight clips at 1.75 times the power, as the specification has it.
# Who is hurt: models quantized to MXInt8, pruned ones most: magnitude pruning leaves the large weights, and these are
#   the ones that lose up to half their size, in every group of 32.
# Remedy: Int8WeightPerChannelFloat, or the MSE variants of Int8; compare quant_weight().value with the weights.
#
# Output seen:
#   weights               1.0000  1.2500  1.5000  1.9900 -1.9900  0.5000
#   MXInt8Weight          0.9922  0.9922  0.9922  0.9922 -1.0000  0.5000
#   MXInt8WeightMSE       0.9922  0.9922  0.9922  0.9922 -1.0000  0.5000
#   ShiftedMXUInt8Weight  0.0000  0.0000  0.0000  0.0000 -1.9922  0.0000
#   MXFloat8e4m3Weight    1.0000  1.2500  1.5000  1.7500 -1.7500  0.5000
#   layer of random weights, largest 4.10: relative error of the output 0.17, of per-channel int8 0.0062

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 brevitas==0.13.4 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import brevitas.nn
import brevitas.quant
import torch


def read(name, weight):
    layer = brevitas.nn.QuantLinear(
        weight.shape[1], weight.shape[0], bias=False, weight_quant=getattr(brevitas.quant, name)
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        return layer.eval().quant_weight().value


weight = torch.zeros(1, 32)
weight[0, :6] = torch.tensor([1.0, 1.25, 1.5, 1.99, -1.99, 0.5])
row = lambda one: " ".join(f"{float(x):7.4f}" for x in one[0, :6])
print(f"{'weights':<21}{row(weight)}")
found = {}
for name in ("MXInt8Weight", "MXInt8WeightMSE", "ShiftedMXUInt8Weight", "MXFloat8e4m3Weight"):
    found[name] = read(name, weight)
    print(f"{name:<21}{row(found[name])}")
torch.manual_seed(0)
many, x = torch.randn(64, 64), torch.randn(256, 64)
off = lambda name: float((x @ (read(name, many) - many).T).norm() / (x @ many.T).norm())
mx, int8 = off("MXInt8Weight"), off("Int8WeightPerChannelFloat")
print(
    f"layer of random weights, largest {float(many.abs().max()):.2f}: relative error of the output "
    f"{mx:.2g}, of per-channel int8 {int8:.2g}"
)
assert (found["MXInt8Weight"][0, :4] == 127 / 128).all(), "large weights are no longer clipped"
assert (found["MXInt8WeightMSE"][0, :4] == 127 / 128).all(), "the MSE variant no longer clips them"
assert (found["ShiftedMXUInt8Weight"][0, :4] == 0).all(), "what is above 0 is no longer cut off"
assert mx > 10 * int8, "the error is now that of 8 bits"
PYTHON
