#!/usr/bin/env bash
# On a CPU the 8-bit numbers of bitsandbytes have no zero: pruned weights come back, and Adam8bit moves frozen ones.
#
# Guess: the 256 codes of create_dynamic_map have an exact 0, which is the nearest to 0, so quantize_blockwise keeps
#   zeros, as its kernel for GPUs does; Adam8bit leaves a weight alone whose gradient is always 0.
# Versions: bitsandbytes 0.50.2, torch 2.13.0, numpy 2.4.6, on an x86 CPU.
# What happens: the search of the CPU's library (cquantize_blockwise_cpu_fp32) is approximate near 0: 0 itself gets code
#   131, four above that of 0, and is read back as 2e-5 of the largest number of its block. In float16 and bfloat16
#   and for other codes the same. Moments of Adam8bit that are 0 come back positive in the same way, so every weight
#   moves in one direction, by a step of the learning rate in 400 steps.
# Who is hurt: pruned models whose weights or checkpoints go through it on a CPU: nothing is 0 any more. Sparse and
#   fine-tuning runs that hold weights by zero gradients, and embeddings of tokens that never come.
# Remedy: multiply by the mask after dequantizing and after each step.
#
# Output seen:
#   codes that are 0: 1; code of 0: 131, of the nearest: 127
#   zeros of a pruned matrix (10 % kept): 90 % before, 0 % after; what they became: 7.9e-05 to 9.2e-05
#   Adam,     400 steps with gradient 0: 0 of 8192 weights moved
#   Adam8bit, 400 steps with gradient 0: 8192 of 8192 weights moved, by -0.0132 to -0.0104; learning rate 0.01

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet bitsandbytes==0.50.2 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

torch.manual_seed(0)
weight = torch.randn(64, 256)
pruned = weight * (weight.abs() > 1.645)
codes, state = quantize_blockwise(pruned)
found = codes[pruned == 0].unique().tolist()
nearest = int(state.code.abs().argmin())
print(f"codes that are 0: {int((state.code == 0).sum())}; code of 0: {found[0]}, of the nearest: {nearest}")
back = dequantize_blockwise(codes, state)
became = back[pruned == 0]
share = [float((one == 0).float().mean()) for one in (pruned, back)]
print(
    f"zeros of a pruned matrix (10 % kept): {100 * share[0]:.0f} % before, {100 * share[1]:.0f} % after;",
    f"what they became: {became.min():.1e} to {became.max():.1e}",
)

rate, moved = 0.01, {}
half = torch.arange(16384) % 2 == 0
for name in ("Adam", "Adam8bit"):
    torch.manual_seed(1)
    parameter = torch.nn.Parameter(torch.randn(16384))
    start = parameter.detach().clone()
    optimizer = getattr(bitsandbytes.optim, name)([parameter], lr=rate)
    for _ in range(400):
        parameter.grad = torch.randn(16384) * half
        optimizer.step()
    step = (parameter.detach() - start)[~half]
    moved[name] = step
    print(f"{name + ',':<9} 400 steps with gradient 0: {int((step != 0).sum())} of {len(step)} weights moved", end="")
    print(f", by {step.min():.4f} to {step.max():.4f}; learning rate {rate}" if step.any() else "")
assert int((state.code == 0).sum()) == 1 and state.code[nearest] == 0
assert share[0] > 0.89 and not moved["Adam"].any()
assert found == [131] and share[1] == 0 and (moved["Adam8bit"] < 0).all(), "0 stays 0 now"
PYTHON
