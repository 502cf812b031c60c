#!/usr/bin/env bash
# After schedule-free training of a pruned model, the evaluation weights are dense.
#
# Guess: if the mask is multiplied into the parameters after every step, as one does with Adam, the weights
#   used for evaluation are masked too: their average over time goes to 0 with the parameters.
# Versions: optax 0.2.8, jax 0.10.2, jaxlib 0.10.2.
# What happens: optax stores z and rebuilds the average from the parameters y as (y - (1 - b1) z) / b1.
#   A pruned weight has y = 0, but its z stays where it was, as its gradient is 0, so its evaluation weight
#   is -z / 9 for the default b1 = 0.9: not 0, of the opposite sign, and it never fades. Without the mask
#   after each step the weight comes back during training, too, even under plain SGD.
# Who is hurt: anyone who prunes during schedule-free training, reports the density of the parameters and
#   evaluates or saves schedule_free_eval_params, which is the documented way to evaluate.
# Remedy: mask the result of schedule_free_eval_params, or multiply the state's z by the mask when pruning.
#
# Output seen:
#   optimizer            density: parameters  evaluation weights  pruned weights / z
#   adam                 0.321                0.321               -
#   schedule_free_adamw  0.321                1.000               -0.1111 to -0.1111
#   schedule_free_sgd    0.321                1.000               -0.1111 to -0.1111

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import optax
from optax.contrib import schedule_free_adamw, schedule_free_eval_params, schedule_free_sgd

target = jax.random.normal(jax.random.key(1), (1000,))
final = (jnp.abs(target) > 1).astype(jnp.float32)


def train(optimizer, evaluation):
    """100 steps dense, then 100 with the mask in the loss and on the weights after each step."""
    weight = jax.random.normal(jax.random.key(0), (1000,))
    state = optimizer.init(weight)

    @jax.jit
    def step(weight, state, mask):
        gradient = jax.grad(lambda w: 0.5 * jnp.sum((w * mask - target) ** 2))(weight)
        updates, state = optimizer.update(gradient, state, weight)
        return optax.apply_updates(weight, updates) * mask, state

    for mask in (jnp.ones(1000), final):
        weight = weight * mask
        for _ in range(100):
            weight, state = step(weight, state, mask)
    return weight, evaluation(state, weight), state


def density(weight):
    return float(jnp.mean(weight != 0))


optimizers = {
    "adam": (optax.adam(0.01), lambda state, weight: weight),
    "schedule_free_adamw": (schedule_free_adamw(0.01), schedule_free_eval_params),
    "schedule_free_sgd": (schedule_free_sgd(0.1), schedule_free_eval_params),
}
print("optimizer            density: parameters  evaluation weights  pruned weights / z")
for name, (optimizer, evaluation) in optimizers.items():
    weight, evaluated, state = train(optimizer, evaluation)
    ratio = "-"
    if name != "adam":
        pruned = final == 0
        share = evaluated[pruned] / state.z[pruned]
        ratio = f"{float(share.min()):.4f} to {float(share.max()):.4f}"
        assert density(evaluated) == 1, "evaluation weights are sparse now"
        assert jnp.allclose(share, -1 / 9, atol=1e-4)
    print(f"{name:<20} {density(weight):<20.3f} {density(evaluated):<19.3f} {ratio}")
    assert density(weight) == density(final)
PYTHON
