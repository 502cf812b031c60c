#!/usr/bin/env bash
# nnx.update takes a state of other shapes, dtypes and names in silence: embeddings give NaN, weights stay random.
#
# Guess: like load_state_dict of PyTorch, which is strict, and from_state_dict of Linen, nnx.update, nnx.merge and
#   nnx.replace_by_pure_dict refuse a state that is not that of the module, or at least one of other shapes.
# Versions: flax 0.12.8, jax 0.10.2, jaxlib 0.10.2 (the same on flax 0.12.12, jax 0.12.0.1).
# What happens: values are put in by name, whatever they are. A layer with 4 outputs takes a kernel of 6 and gives 6,
#   while out_features says 4. An embedding of 10 rows takes a table of 5 and gives NaN for rows 5 to 9, since a read
#   outside of an array is filled. An entry under a name that the module lacks becomes a new attribute; the weight that
#   was meant keeps its random start.
# Who is hurt: whoever fills a model from a checkpoint of another size, of a pruned model, or of one whose layers were
#   renamed: nothing is raised, and a model of the wrong size or one half trained is served.
# Remedy: compare the paths, shapes and dtypes of both states before the call.
#
# Output seen:
#   Linear(3, 4) from Linear(3, 6)      outputs 6, out_features 4
#   the same by nnx.merge               outputs 6, out_features 4
#   replace_by_pure_dict                kernel (9, 9) for (3, 4)
#   Linear(3, 4) from int8 [4, 3]       kernel int8[4,3]
#   Embed(10, 4) from Embed(5, 4)       finite rows of 10: 5
#   entry 'kernal' for 'kernel'         kernel changed: False, attribute kernal: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
    ml_dtypes==0.6.0 optax==0.2.8 orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W error - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
from flax import nnx


def linear(outputs=4, seed=0):
    return nnx.Linear(3, outputs, rngs=nnx.Rngs(seed))


def show(case, text):
    print(f"{case:<35} {text}")


x, wide = jnp.ones((2, 3)), nnx.state(linear(6, seed=1))
model = linear()
nnx.update(model, wide)
merged = nnx.merge(nnx.graphdef(linear()), wide)
for case, found in (("Linear(3, 4) from Linear(3, 6)", model), ("the same by nnx.merge", merged)):
    show(case, f"outputs {found(x).shape[1]}, out_features {found.out_features}")
    assert found(x).shape == (2, 6) and found.out_features == 4, "the shape is checked now"

state = nnx.state(linear())
nnx.replace_by_pure_dict(state, {"kernel": jnp.ones((9, 9)), "bias": jnp.ones(4)})
show("replace_by_pure_dict", f"kernel {state['kernel'].get_value().shape} for (3, 4)")
assert state["kernel"].get_value().shape == (9, 9)

model = linear()
nnx.update(model, nnx.State({"kernel": nnx.Param(jnp.ones((4, 3), jnp.int8))}))
kernel = model.kernel.get_value()
show("Linear(3, 4) from int8 [4, 3]", f"kernel {kernel.dtype}[4,3]")
assert kernel.dtype == jnp.int8 and kernel.shape == (4, 3)

table = nnx.Embed(10, 4, rngs=nnx.Rngs(0))
nnx.update(table, nnx.state(nnx.Embed(5, 4, rngs=nnx.Rngs(1))))
finite = int(np.isfinite(table(jnp.arange(10))).all(axis=1).sum())
show("Embed(10, 4) from Embed(5, 4)", f"finite rows of 10: {finite}")
assert finite == 5

model, start = linear(), linear().kernel.get_value()
nnx.update(model, nnx.State({"kernal": nnx.Param(jnp.zeros((3, 4)))}))
changed = bool((model.kernel.get_value() != start).any())
show("entry 'kernal' for 'kernel'", f"kernel changed: {changed}, attribute kernal: {hasattr(model, 'kernal')}")
assert not changed and hasattr(model, "kernal")
PYTHON
