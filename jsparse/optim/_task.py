"""The task's own gradient: without what `cost` adds to it, and without the gradients of masks."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._paths import named
from jsparse._slots import ruled_parts, slots
from jsparse._sparse import Mask, Sparse
from jsparse._untraced import explain_abstract_model
from jsparse._variables import map_arrays, stored
from jsparse.optim._masked import masked_weights, without_masked
from jsparse.rules._rule import Rule, State
from jsparse.rules._stacked import stacked_cost


@explain_abstract_model
def task_gradients(model: nnx.Module, grads: Any) -> dict[str, Array]:
    """The gradient of the task's loss, by path.

    A gradient of `task + jsparse.cost(model)` has a part that only pushes what the rules learn, and
    it has dense gradients where masks are 0: those of masks under `revise`, and of coupled units. A
    norm over all of it is not that of the task:

        optax.tree.norm(jsparse.optim.task_gradients(model, grads))

    Args:
      model: the model as it was when the gradients were taken.
      grads: gradients of the loss, cost included.

    Returns:
      Arrays by path, 0 where a stored mask is 0; masks are left out, and a variable shared between
      places has its first path.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jsparse import Threshold
      >>> from jsparse._surgery import cost, sparsify
      >>> model = sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", Threshold(alpha=0.1)))
      >>> task = task_gradients(model, nnx.grad(cost)(model))
      >>> float(abs(task["kernel/threshold"]).max())
      0.0
    """
    homes, priced = _homes(model)
    found: dict[str, Array] = {}
    grads = without_masked(grads, masked_weights(model, [path for path in homes if homes[path]]))
    for path, leaf in named(arrays_of(grads)).items():
        home = homes.get(path, path)
        if home is not None:
            found[home] = leaf
    for path, part in priced.items():
        names = [n for n in part.rule.learned if f"{path}/{n}" in found]
        for name, price in cost_gradient(part.rule, names, part.state).items():
            found[f"{path}/{name}"] = found[f"{path}/{name}"] - price
    return found


def clipped(model: nnx.Module, grads: Any, task: dict[str, Array], most: float) -> Any:
    """The gradients, with the task's part scaled to a global norm of at most `most`.

    The model is as it was when they were taken; `task` are the `task_gradients` of both.
    """
    homes, priced = _homes(model)
    learned = {f"{path}/{name}" for path, part in priced.items() for name in part.rule.learned}
    excess = 1 - jnp.minimum(1.0, most / jnp.maximum(norm(task.values()), 1e-30))

    def scaled(path: str, grad: Array) -> Array:
        home = homes.get(path, path)
        own = task[home] if home in learned else grad
        return grad - (excess * own).astype(grad.dtype)

    return map_arrays(scaled, grads)


def norm(arrays: Iterable[Array]) -> Array:
    """The norm of all arrays together, []: float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(a.astype(jnp.float32))) for a in arrays))


def _homes(model: nnx.Module) -> tuple[dict[str, str | None], dict[str, Sparse]]:
    """The first path of each variable of a Sparse by any path, None for masks; and the parts."""
    homes: dict[str, str | None] = {}
    first: dict[int, str] = {}
    parts: dict[str, Sparse] = {}
    for slot in slots(model):
        part = slot.value
        if isinstance(part, Sparse):
            home = first.setdefault(id(part), slot.path)
            parts.setdefault(home, part)
            for name in ("weight", *part.state_names):
                masked = isinstance(getattr(part, name), Mask)
                homes[f"{slot.path}/{name}"] = None if masked else f"{home}/{name}"
        elif isinstance(part, Mask):  # of packed layers
            homes[slot.path] = None
    return homes, parts | ruled_parts(model)


def cost_gradient(rule: Rule, names: Sequence[str], state: State) -> dict[str, Array]:
    """The gradient of a rule's cost for some entries of its state."""
    if not names:
        return {}
    of_learned = lambda learned: stacked_cost(rule, state | learned, rule.role.stack)
    return jax.grad(of_learned)({name: state[name] for name in names})


def arrays_of(tree: Any) -> Any:
    """The tree with arrays in place of variables; a transform's may hold optax.MaskedNode()."""
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
    return jax.tree.map(
        lambda leaf: stored(leaf) if is_variable(leaf) else leaf, tree, is_leaf=is_variable
    )
