#!/usr/bin/env bash
# jax.jit and jax.tree.map turn two tied layers of an NNX model into two layers.
#
# Guess: NNX modules are pytrees that may be passed to JAX's own transforms; a Param that two layers share stays one,
#   as under nnx.jit, or the model is refused, as in tree mode (graph=False).
# Versions: flax 0.12.8, jax 0.10.2, jaxlib 0.10.2 (the same on flax 0.12.12, jax 0.12.0.1).
# What happens: JAX flattens the model as a tree, in which a shared Param stands twice. What jax.jit, jax.tree.map and
#   jax.grad return is a model whose layers hold a Param each, at first with equal values, so that its outputs
#   agree. Training then moves them apart: the gradient of each layer is its own share, where nnx.grad gives the sum.
# Who is hurt: tied embeddings and layers used twice: a cast of all weights by tree.map, or one jitted step, doubles
#   their parameters, and a mask or a density counts them twice.
# Remedy: nnx.jit and nnx.grad; or nnx.split, JAX's transforms on the state, nnx.merge.
#
# Output seen:
#                                one kernel  numbers  kernels apart by
#   as made                      True        80       0.0000
#   jax.tree.map(identity)       False       144      0.0000
#   nnx.jit, one step            True        80       0.0000
#   jax.jit, one step            False       144      0.0134
#   jax.jit on the split state   True        80       0.0000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
    ml_dtypes==0.6.0 optax==0.2.8 orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W error - <<'PYTHON'
import jax
import jax.numpy as jnp
from flax import nnx

x = jax.random.normal(jax.random.key(0), (32, 8))


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(8, 8, rngs=rngs)
        self.second = nnx.Linear(8, 8, rngs=rngs)
        self.second.kernel = self.first.kernel

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def loss(model):
    return jnp.mean((model(x) - x) ** 2)


def descend(weight, slope):
    return weight - 0.1 * slope


def by_nnx(model):
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(descend, state, nnx.grad(loss)(model)))
    return model


def by_jax(model):
    return jax.tree.map(descend, model, jax.grad(loss)(model))


def by_split(model):
    graph, state = nnx.split(model)
    slopes = jax.grad(lambda state: loss(nnx.merge(graph, state)))
    return nnx.merge(graph, jax.jit(lambda state: jax.tree.map(descend, state, slopes(state)))(state))


def facts(model):
    first, second = model.first.kernel, model.second.kernel
    apart = float(jnp.abs(first[...] - second[...]).max())
    return first is second, sum(a.size for a in jax.tree.leaves(nnx.state(model))), apart


runs = {
    "as made": lambda model: model,
    "jax.tree.map(identity)": lambda model: jax.tree.map(lambda leaf: leaf, model),
    "nnx.jit, one step": nnx.jit(by_nnx),
    "jax.jit, one step": jax.jit(by_jax),
    "jax.jit on the split state": by_split,
}
print(f"{'':<28} one kernel  numbers  kernels apart by")
found = {}
for name, run in runs.items():
    one, count, apart = found[name] = facts(run(Tied(nnx.Rngs(0))))
    print(f"{name:<28} {one!s:<11} {count:<8} {apart:.4f}")
for name in ("jax.tree.map(identity)", "jax.jit, one step"):
    assert not found[name][0] and found[name][1] == 144, "tied layers stay tied now"
assert found["jax.jit, one step"][2] > 0.001
for name in ("as made", "nnx.jit, one step", "jax.jit on the split state"):
    assert found[name] == (True, 80, 0)
PYTHON
