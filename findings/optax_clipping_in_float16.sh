#!/usr/bin/env bash
# optax.clip_by_global_norm turns float16 gradients with a norm above 256 into zeros, and clips none of small entries.
#
# Guess: the norm is accumulated in float32, as in torch.nn.utils.clip_grad_norm_, so a norm of 300 is far from any
#   limit, and after the clipping the norm is max_norm.
# Versions: optax 0.2.8, jax 0.10.2, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: the squares and their sum are float16, which ends at 65504 = 256^2. Above it the norm is inf, and
#   g / inf = 0 is the update: the step is lost, with its warning sign. Squares of entries below 1.7e-4 are 0, so is the
#   norm, and the gradient goes through as it is, however many entries it has.
# Who is hurt: mixed precision with float16 gradients: the spikes that clipping is for, and loss scaling in front of the
#   clipping, which gives a norm of inf at each step.
# Remedy: cast the gradients to float32 before the clipping.
#
# Output seen (a million equal entries, max_norm 0.1):
#   norm    optax, float16           optax, float16, jax.jit  optax, cast to float32   PyTorch, float16
#   1000.00 0.0000                   0.0000                   0.1000                   0.1000
#   300.05  0.0000                   0.0000                   0.1000                   0.1001
#   199.95  0.1000                   0.1000                   0.1000                   0.1001
#   10.00   0.1000                   0.1000                   0.1000                   0.1003
#   0.15    0.1500                   0.1500                   0.1000                   0.1003

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

clip = optax.clip_by_global_norm(0.1)


def eager(g):
    return clip.update(g, clip.init(g))[0]


def in_torch(g):
    p = torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float16))
    p.grad = torch.tensor(np.asarray(g))
    torch.nn.utils.clip_grad_norm_([p], 0.1)
    return p.grad.numpy()


ways = {
    "optax, float16": eager,
    "optax, float16, jax.jit": jax.jit(eager),
    "optax, cast to float32": lambda g: eager(g.astype(jnp.float32)),
    "PyTorch, float16": in_torch,
}
found = {}
print("norm    " + "".join(f"{name:<25}" for name in ways).rstrip())
for entry in (1.0, 0.3, 0.2, 0.01, 0.00015):
    g = jnp.full(10**6, entry, jnp.float16)
    norm = float(np.linalg.norm(np.asarray(g, np.float64)))
    for name, way in ways.items():
        found[entry, name] = float(np.linalg.norm(np.asarray(way(g), np.float64)))
    print(f"{norm:<8.2f}" + "".join(f"{found[entry, name]:<25.4f}" for name in ways).rstrip())

for entry in (1.0, 0.3):
    assert found[entry, "optax, float16"] == 0, "the norm is taken in float32 now"
assert abs(found[0.00015, "optax, float16"] - 0.15) < 0.001
for entry in (1.0, 0.3, 0.2, 0.01, 0.00015):
    assert abs(found[entry, "optax, cast to float32"] - 0.1) < 0.001
PYTHON
