#!/usr/bin/env bash
# nnx.WeightNorm never trains its scales, and its forward pass overwrites the weights and their dtype.
#
# Guess: as in Linen, PyTorch and the paper, the weight is scale * v / |v| with both v and scale trained, and
#   a forward pass reads the parameters; dtype=bfloat16 is the type of the computation.
# Versions: flax 0.12.8, jax 0.10.2, jaxlib 0.10.2, optax 0.2.8, on a CPU.
# What happens: the scales are plain arrays, not nnx.Param: no gradient, no update, and they are missing in
#   nnx.state(model, nnx.Param). All columns keep the norm 1, so a linear model cannot fit linear data. The
#   forward pass, also one for evaluation, stores the normalized weight in the kernel's Param; with
#   dtype=bfloat16 it stores bfloat16, and small steps of the optimizer may then be rounded away. No warning.
# Who is hurt: anyone who ports a Linen model; checkpoints and optimizers that take nnx.Param; pruning by
#   magnitude, which sees other magnitudes before and after the first call.
# Remedy: norm.scales = nnx.data({path: nnx.Param(s) for path, s in norm.scales.items()}), and no dtype.
#
# Output seen:
#   mean of y^2                 184.80
#   loss, Linen                 0.00
#   loss, NNX                   158.07
#   loss, NNX, scales as Params 0.00
#   one forward pass: kernel float32 -> float32, norm 1.176 -> 1.0
#   one forward pass: kernel float32 -> bfloat16, norm 1.176 -> 1.0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (512, 16))
y = x @ (3 * jax.random.normal(keys[1], (16, 4)))


def train(state, predict):
    """1500 steps of Adam on the mean squared error; the last loss."""
    optimizer = optax.adam(0.03)
    moments = optimizer.init(state)

    @jax.jit
    def step(state, moments):
        loss, slope = jax.value_and_grad(lambda s: jnp.mean((predict(s) - y) ** 2))(state)
        updates, moments = optimizer.update(slope, moments, state)
        return optax.apply_updates(state, updates), moments, loss

    for _ in range(1500):
        state, moments, loss = step(state, moments)
    return float(loss)


def wrapped(**options):
    return nnx.WeightNorm(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1), **options)


def train_nnx(model):
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return train(params, lambda params: nnx.merge(graph, params, rest)(x))


linen = nn.WeightNorm(nn.Dense(4))
remedied = wrapped()
remedied.scales = nnx.data({path: nnx.Param(s) for path, s in remedied.scales.items()})
losses = {
    "Linen": train(linen.init(keys[2], x), lambda variables: linen.apply(variables, x)),
    "NNX": train_nnx(wrapped()),
    "NNX, scales as Params": train_nnx(remedied),
}
print(f"{'mean of y^2':<27} {float(jnp.mean(y**2)):.2f}")
for name, loss in losses.items():
    print(f"loss, {name:<21} {loss:.2f}")
assert losses["Linen"] < 0.01 and losses["NNX, scales as Params"] < 0.01
assert losses["NNX"] > 10, "the scales are trained now"

for dtype in (None, jnp.bfloat16):
    model = wrapped(dtype=dtype)
    kernel = model.layer_instance.kernel
    before = kernel[...]
    model(x)
    after = kernel[...]
    norms = [round(float(jnp.linalg.norm(w[:, 0])), 3) for w in (before, after)]
    change = f"{before.dtype} -> {after.dtype}, norm {norms[0]} -> {norms[1]}"
    print(f"one forward pass: kernel {change}")
    assert norms[0] != norms[1], "a forward pass leaves the kernel alone now"
    assert after.dtype == (dtype or before.dtype)
PYTHON
