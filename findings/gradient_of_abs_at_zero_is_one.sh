#!/usr/bin/env bash
# In JAX the gradient of |w| at 0 is 1, so an L1 penalty drives pruned weights away from 0.
#
# Guess: the slope of |w| at 0 is 0, in the middle of -1 and 1, as in PyTorch and as sign(0) says: weights
#   that are exactly 0 stay there under an L1 penalty.
# Versions: jax 0.10.2, jaxlib 0.10.2, optax 0.2.8 (the same on jax 0.12.0.1); torch 2.13.0 beside it.
# What happens: reverse mode gives 1 at 0 and at -0.0, also for jnp.linalg.norm(w, 1). A pruned weight
#   whose other gradients are 0 is moved by the first step, and then to and fro around 0 without meeting it
#   again, so the density is 1 at once. maximum(w, -w) and w * sign(w) have the slope 0.
# Who is hurt: training with L1 after pruning, or from weights that start at 0 (LoRA's B, gates, a new head); a count of
#   w != 0 after it says 100 %.
# Remedy: jnp.sum(w * jnp.sign(w)), or a proximal step (soft threshold), which makes zeros and keeps them.
#
# Output seen:
#   gradient at                         0.0   -0.0
#     jnp.sum(jnp.abs(w))               1.0   1.0
#     jnp.linalg.norm(w, 1)             1.0   1.0
#     jnp.sum(jnp.maximum(w, -w))       0.0   0.0
#     jnp.sum(w * jnp.sign(w))          0.0   -0.0
#     torch: w.abs().sum()              0.0   0.0
#   after 25 steps                      density  largest pruned weight
#     jnp.sum(jnp.abs(w)), sgd          1.000    0.001
#     jnp.sum(jnp.abs(w)), adam         1.000    0.0006
#     jnp.sum(w * jnp.sign(w)), sgd     0.124    0
#     jnp.sum(w * jnp.sign(w)), adam    0.124    0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import optax
import torch

zeros = jnp.array([0.0, -0.0])
ways = {
    "jnp.sum(jnp.abs(w))": lambda w: jnp.sum(jnp.abs(w)),
    "jnp.linalg.norm(w, 1)": lambda w: jnp.linalg.norm(w, 1),
    "jnp.sum(jnp.maximum(w, -w))": lambda w: jnp.sum(jnp.maximum(w, -w)),
    "jnp.sum(w * jnp.sign(w))": lambda w: jnp.sum(w * jnp.sign(w)),
}
print("gradient at                         0.0   -0.0")
found = {name: jax.grad(way)(zeros).tolist() for name, way in ways.items()}
tensor = torch.zeros(2, requires_grad=True)
tensor.abs().sum().backward()
found["torch: w.abs().sum()"] = tensor.grad.tolist()
for name, slopes in found.items():
    print(f"  {name:<33} {slopes[0]:<5} {slopes[1]}")

target = jax.random.normal(jax.random.key(0), (1000,))
mask = jnp.abs(target) > 1.5


def trained(optimizer, size):
    """The share of nonzero weights after 25 steps whose loss sees the kept ones only."""
    weight = jnp.where(mask, target, 0.0)
    state = optimizer.init(weight)

    @jax.jit
    def step(weight, state):
        loss = lambda w: jnp.sum(jnp.where(mask, w - target, 0) ** 2) + 0.1 * size(w)
        updates, state = optimizer.update(jax.grad(loss)(weight), state, weight)
        return optax.apply_updates(weight, updates), state

    for _ in range(25):
        weight, state = step(weight, state)
    return float(jnp.mean(weight != 0)), float(jnp.abs(jnp.where(mask, 0, weight)).max())


print("after 25 steps                      density  largest pruned weight")
ends = {}
for name in ("jnp.sum(jnp.abs(w))", "jnp.sum(w * jnp.sign(w))"):
    for optimizer in (optax.sgd, optax.adam):
        ends[name, optimizer] = density, largest = trained(optimizer(0.01), ways[name])
        print(f"  {name}, {optimizer.__name__:<{31 - len(name)}} {density:<8.3f} {largest:.1g}")
assert found["jnp.sum(jnp.abs(w))"] == found["jnp.linalg.norm(w, 1)"] == [1, 1], "the slope is another now"
assert found["torch: w.abs().sum()"] == found["jnp.sum(w * jnp.sign(w))"] == [0, 0]
for (name, _), (density, _) in ends.items():
    assert density == (1 if "abs" in name else float(jnp.mean(mask)))
PYTHON
