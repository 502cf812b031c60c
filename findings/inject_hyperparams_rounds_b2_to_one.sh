#!/usr/bin/env bash
# optax.inject_hyperparams makes Adam return NaN on a bfloat16 model at the first step.
#
# Guess: inject_hyperparams(adam)(1e-2) is adam(1e-2) whose numbers can be read and changed in the state.
# Versions: optax 0.2.8, jax 0.10.2, jaxlib 0.10.2 (the same on jax 0.12.0.1).
# What happens: every hyperparameter, not only the learning rate, becomes an array of the parameters' dtype. In
#   bfloat16 the default b2 = 0.999 is 1: the second moment never leaves 0, and its bias correction 1 - b2^t is 0,
#   so the first update is 0 / 0. With b1 = 0.9 rounded to 0.8984 nothing is seen. Adam without the
#   wrapper keeps its numbers as Python floats and trains. One float32 leaf in the model hides it, as the
#   dtype then is float32.
# Who is hurt: whoever logs, schedules or tunes the learning rate of a model held in bfloat16: it trained before the
#   wrapper came, and does again while a norm is in float32.
# Remedy: optax.inject_hyperparams(optax.adam, hyperparam_dtype=jnp.float32)(1e-2).
#
# Output seen (weights start at 0.5 and belong at 1; after 100 steps):
#                                        b2 in the state  weight
#   adam, float32                        -                1.0039
#   injected, float32                    0.999            1.0039
#   adam, bfloat16                       -                0.9883
#   injected, bfloat16                   1                nan
#   injected, one float32 leaf beside    0.999            0.9922
#   injected, hyperparam_dtype=float32   0.999            0.9922

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import math

import jax
import jax.numpy as jnp
import optax

single, brain = {"w": jnp.full(3, 0.5)}, {"w": jnp.full(3, 0.5, jnp.bfloat16)}
mixed = brain | {"scale": jnp.full(3, 0.5)}
wide = optax.inject_hyperparams(optax.adam, hyperparam_dtype=jnp.float32)(0.01)
injected = optax.inject_hyperparams(optax.adam)(0.01)


def train(optimizer, weights):
    """b2 as the state holds it, and a weight after 100 steps on (w - 1)^2 / 2."""
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state):
        updates, state = optimizer.update(jax.tree.map(lambda w: w - 1, weights), state, weights)
        return optax.apply_updates(weights, updates), state

    for _ in range(100):
        weights, state = step(weights, state)
    held = getattr(state, "hyperparams", {}).get("b2", "-")
    return held if held == "-" else f"{float(held):.4g}", float(weights["w"][0])


runs = {
    "adam, float32": (optax.adam(0.01), single),
    "injected, float32": (injected, single),
    "adam, bfloat16": (optax.adam(0.01), brain),
    "injected, bfloat16": (injected, brain),
    "injected, one float32 leaf beside": (injected, mixed),
    "injected, hyperparam_dtype=float32": (wide, brain),
}
print(f"{'':<36} b2 in the state  weight")
found = {}
for name, run in runs.items():
    held, found[name] = train(*run)
    print(f"{name:<36} {held:<16} {found[name]:.4f}")
assert math.isnan(found.pop("injected, bfloat16")), "it trains now"
assert all(abs(weight - 1) < 0.02 for weight in found.values())
PYTHON
