"""What trains the network of an agent: an optimizer that also moves its masks, and a step of it."""

from collections.abc import Callable
from typing import Any

import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common
from experiments.rl.networks import Kind

TRAINED = (nnx.Param, jsparse.Mask)


def optimizer(
    network: nnx.Module, tx: optax.GradientTransformation, kind: Kind, seed: int, **when: Any
) -> jsparse.Optimizer:
    """One for a network of this kind.

    Args:
      network: as `kind.start` made it.
      tx: what trains its weights.
      kind: how it is sparse.
      seed: of the changes of masks.
      **when: what `kind.moved` is given, such as `every` and `last`, by steps of this optimizer.
    """
    if kind.moved is None:
        return jsparse.Optimizer(network, tx)
    revised = jsparse.revise(tx, (".*", kind.moved(**when)), seed=seed)
    return jsparse.Optimizer(network, revised, wrt=nnx.Any(*TRAINED))


def per_seed(one: Callable) -> Callable:
    """A function of one seed as one of all: side by side, or in turn on a CPU.

    In turn a change of masks is a branch, which is computed only when it is due.
    """
    over = common.turns_on_cpu()
    return lambda *given: over(lambda own, *_: one(*own))(given, None, None)  # type: ignore


def improve(network: Any, optimizer: jsparse.Optimizer, loss_of: Callable[[Any], Array]) -> Array:
    """One step down a loss, in place; the loss before it, without the cost of rules."""

    def both(network: Any) -> tuple[Array, Array]:
        loss = loss_of(network)
        return loss + jsparse.cost(network), loss

    what = nnx.DiffState(0, optimizer.wrt)
    grads, loss = nnx.grad(both, argnums=what, has_aux=True)(network)
    optimizer.update(network, grads)
    return loss
