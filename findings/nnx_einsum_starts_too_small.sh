#!/usr/bin/env bash
# nnx.Einsum starts a projection to 8 heads with weights sqrt(8) times too small; nnx.LinearGeneral does not.
#
# Guess: both draw the kernel by lecun_normal, whose standard deviation is 1 / sqrt(inputs): 0.0625 for 256 inputs,
#   however the outputs are arranged; the equation says which axes are summed.
# Versions: flax 0.12.8, jax 0.10.2, jaxlib 0.10.2 (the same on flax 0.12.12, jax 0.12.0.1).
# What happens: JAX's initializers take a shape and no equation. They count the last but one axis as inputs, the last
#   one as outputs, and all others as the window of a convolution, which multiplies both. LinearGeneral
#   flattens its kernel before drawing; Einsum and a Param made by the initializer do not. For "btd,dhk->bthk"
#   with d = 256, h = 8 the inputs are counted as 2048. Where two axes are summed, "bthk,hkd->btd", it is right.
# Who is hurt: attention written with einsums and trained from the start: its logits q k start 8 times too small,
#   and scores of weights at birth (magnitude, SNIP) rank these layers low for no reason.
# Remedy: nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=(1, 2)).
#
# Output seen:
#                                        std     1 / sqrt(inputs)
#   nnx.LinearGeneral(256, (8, 32))      0.0626  0.0625
#   nnx.Einsum("btd,dhk->bthk")          0.0221  0.0625
#   the same, axes named                 0.0626  0.0625
#   nnx.Einsum("bthk,hkd->btd")          0.0626  0.0625
#   logits q k of Einsum / LinearGeneral 0.125

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
    ml_dtypes==0.6.0 optax==0.2.8 orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
from flax import nnx

INPUTS = 256
named = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=(1, 2))


def einsum(equation, shape, seed=0, **options):
    return nnx.Einsum(equation, shape, rngs=nnx.Rngs(seed), **options)


def general(seed=0):
    return nnx.LinearGeneral(INPUTS, (8, 32), rngs=nnx.Rngs(seed))


heads, split = "btd,dhk->bthk", (INPUTS, 8, 32)
layers = {
    "nnx.LinearGeneral(256, (8, 32))": general(),
    'nnx.Einsum("btd,dhk->bthk")': einsum(heads, split),
    "the same, axes named": einsum(heads, split, kernel_init=named),
    'nnx.Einsum("bthk,hkd->btd")': einsum("bthk,hkd->btd", (8, 32, INPUTS)),
}
print(f"{'':<36} std     1 / sqrt(inputs)")
found = {}
for name, layer in layers.items():
    found[name] = float(layer.kernel[...].std())
    print(f"{name:<36} {found[name]:.4f}  {INPUTS**-0.5:.4f}")
x = jax.random.normal(jax.random.key(1), (4, 16, INPUTS))


def logits(query, key):
    return float(jnp.einsum("bqhk,bshk->bhqs", query(x), key(x)).std())


ratio = logits(einsum(heads, split, 1), einsum(heads, split, 2)) / logits(general(1), general(2))
print(f"{'logits q k of Einsum / LinearGeneral':<36} {ratio:.3f}")
small = found.pop('nnx.Einsum("btd,dhk->bthk")')
assert abs(small * (8 * INPUTS) ** 0.5 - 1) < 0.02, "Einsum counts its inputs in another way now"
assert all(abs(std * INPUTS**0.5 - 1) < 0.02 for std in found.values())
assert 0.11 < ratio < 0.14
PYTHON
