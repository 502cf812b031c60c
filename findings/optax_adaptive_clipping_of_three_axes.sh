#!/usr/bin/env bash
# optax.adaptive_grad_clip takes the norm of a unit over layers if layers are stacked, and over the window in a Conv1D.
#
# Guess: it clips each unit by its own weights, as in the paper (Brock et al., arXiv:2102.06171): a unit is what ends in
#   one output, so kernels of three axes are summed over the first two, and a stack of layers, made by nnx.vmap for
#   nnx.scan, is clipped like the same layers one by one. Its docstring has "Rank-3 or 4: Axes (0, 1, 2)".
# Versions: optax 0.2.8, jax 0.10.2, numpy 2.4.6, on a CPU.
# What happens: for three axes the code sums over the first one alone (unitwise_norm of optax.transforms, `x.ndim in
#   (2, 3)`), which suits attention kernels [inputs, heads, size]. In a stack [layers, inputs, outputs] a weight is
#   measured together with the weights at its place in the other layers, so a layer of small weights may take steps as
#   if it were a large one. In a Conv1D [window, inputs, outputs] each pair of input and output is a unit, and one
#   whose weights are pruned, or start at 0, gets 1e-5 of gradient at most, though its filter is large.
# Who is hurt: deep networks scanned over their layers, which are what this clipping is for, audio and time
#   series; growth of connections by gradients behind the clipping.
# Remedy: adaptive_grad_clip(clipping, axis=1) for stacks, axis=(0, 1) for Conv1D, by optax.partition.
#
# Output seen (clipping 0.01, gradients of 1 everywhere; norm of the clipped gradient of a unit / norm of its weights):
#                             weights of 0.01  of 0.1   of 1
#   three layers in a stack   0.5981           0.0595   0.0058
#   three layers one by one   0.0100           0.0100   0.0100
#   in a stack, axis=1        0.0100           0.0100   0.0100
#                             gradient of pruned inputs, largest   of the others
#   Conv1D, half pruned       0.000004                             0.018543
#   Conv1D, axis=(0, 1)       0.008090                             0.008090

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax


def clipped(weight, **options):
    clip = optax.adaptive_grad_clip(0.01, **options)
    return clip.update(jnp.ones_like(weight), clip.init(weight), weight)[0]


def ratio(weight, gradient, axis):
    """Norm of the clipped gradient over that of the weights, for each unit, then the mean over units."""
    norms = [jnp.sqrt(jnp.sum(x**2, axis)) for x in (gradient, weight)]
    return norms[0] / norms[1]


draw = jax.random.normal(jax.random.key(0), (3, 64, 32))
stack = draw * jnp.array([0.01, 0.1, 1.0])[:, None, None]
ways = {
    "three layers in a stack": clipped(stack),
    "three layers one by one": jnp.stack([clipped(layer) for layer in stack]),
    "in a stack, axis=1": clipped(stack, axis=1),
}
found = {}
print("                          weights of 0.01  of 0.1   of 1")
for name, gradient in ways.items():
    found[name] = np.asarray(ratio(stack, gradient, 1).mean(1))
    print(f"{name:<26}{found[name][0]:<17.4f}{found[name][1]:<9.4f}{found[name][2]:.4f}")

window = jax.random.normal(jax.random.key(1), (5, 16, 8)).at[:, :8].set(0)
print("                          gradient of pruned inputs, largest   of the others")
for name, options in (("Conv1D, half pruned", {}), ("Conv1D, axis=(0, 1)", {"axis": (0, 1)})):
    gradient = clipped(window, **options)
    found[name] = float(gradient[:, :8].max()), float(gradient[:, 8:].max())
    print(f"{name:<26}{found[name][0]:<37.6f}{found[name][1]:.6f}")

assert np.allclose(found["three layers one by one"], 0.01) and np.allclose(found["in a stack, axis=1"], 0.01)
assert found["three layers in a stack"][0] > 0.3, "a stack is clipped layer by layer now"
assert found["Conv1D, half pruned"][0] < 1e-5 < 1e-3 < found["Conv1D, axis=(0, 1)"][0]
assert "Rank-3 or 4: Axes (0, 1, 2)" in inspect.getdoc(optax.transforms.unitwise_norm)
PYTHON
