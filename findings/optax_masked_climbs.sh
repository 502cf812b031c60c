#!/usr/bin/env bash
# optax.masked freezes nothing: what the mask leaves out moves uphill by its whole gradient.
#
# Guess: optax.masked(optax.adam(1e-3), mask) trains where the mask is True, and the rest stays as it is.
# Versions: optax 0.2.8, jax 0.10.2, numpy 2.4.6.
# What happens: outside of the mask the update is the gradient itself, as the inner transformation is skipped, with
#   its learning rate and its sign. apply_updates adds it: gradient ascent at a rate of 1.
# Who is hurt: frozen backbones and fine-tuning of a part: the loss grows at once where gradients are large, and where
#   they are small the "frozen" weights drift in the wrong direction.
# Remedy: optax.partition with optax.set_to_zero() for the rest; masked is for parts of a chain, such as weight decay.
#
# Output seen (loss = (a - 1)^2 / 200 + (b - 1)^2 / 200 from a = b = 0, 100 steps, only a is to be trained):
#                    a     b      loss (at the start 0.0100)
#   optax.masked     0.78  -1.70  0.0368
#   optax.partition  0.78  0.00   0.0053

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import jax
import jax.numpy as jnp
import optax

mask, start = {"a": True, "b": False}, {"a": jnp.array(0.0), "b": jnp.array(0.0)}
adam = optax.adam(0.01)
labels = {"a": "train", "b": "keep"}
optimizers = {
    "optax.masked": optax.masked(adam, mask),
    "optax.partition": optax.partition({"train": adam, "keep": optax.set_to_zero()}, labels),
}


def loss(p):
    return sum((p[name] - 1) ** 2 for name in p) / 200


def train(optimizer):
    params, state = start, optimizer.init(start)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(100):
        params, state = step(params, state)
    return float(params["a"]), float(params["b"]), float(loss(params))


print(f"                 a     b      loss (at the start {float(loss(start)):.4f})")
found = {name: train(optimizer) for name, optimizer in optimizers.items()}
for name, (a, b, end) in found.items():
    print(f"{name:<17}{a:<6.2f}{b:<7.2f}{end:.4f}")
assert found["optax.partition"][1] == 0
assert found["optax.masked"][1] < -1, "masked leaves the rest alone now"
assert found["optax.masked"][2] > float(loss(start)) > found["optax.partition"][2]
assert found["optax.masked"][0] == found["optax.partition"][0]
PYTHON
