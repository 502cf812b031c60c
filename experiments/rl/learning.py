"""What trains the networks of agents: an optimizer that also moves masks, and steps of it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
    """One for a network that `kind.start` made, whose changes of masks have a seed.

    Args:
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


class Agent(nnx.Module):
    """A network and its optimizer; the arguments are those of `optimizer`."""

    def __init__(
        self, network: Any, tx: optax.GradientTransformation, kind: Kind, seed: int, **when: Any
    ):
        self.network, self.optimizer = network, optimizer(network, tx, kind, seed, **when)

    def improve(self, loss_of: Callable[[Any], Array]) -> Array:
        """One step down a loss, in place; the loss before it, without the cost of rules."""
        return improve(self.network, self.optimizer, loss_of)


class Updates:
    """Compiled updates of an agent of several networks that is held as a tree of arrays.

    Args:
      networks: rngs -> dense ones.
      agent: (seed, *networks) -> a module.
      kind: how the networks are sparse.
    """

    def __init__(self, networks: Callable, agent: Callable[..., nnx.Module], kind: Kind):
        self._networks, self._made, self.kind = networks, agent, kind

    def networks(self, seed: int) -> tuple[Any, ...]:
        """New ones."""
        made = self._networks(nnx.Rngs(seed))
        keys = jax.random.split(jax.random.key(seed), len(made))
        return tuple(self.kind.start(one, key) for one, key in zip(made, keys, strict=True))

    def start(self, seed: int, *networks: nnx.Module) -> Any:
        """The state of an agent with these networks."""
        self._graph, state = nnx.split(self._made(seed, *networks))
        return jax.tree.map(jnp.copy, state)  # training uses it up

    def agent(self, state: Any) -> Any:
        """The agent of a state."""
        return nnx.merge(self._graph, state)


def chosen(over: Array, fresh: Any, old: Any) -> Any:
    """Of two trees [n, ...], the rows of the first where over [n], else those of the second."""
    pick = lambda a, b: jnp.where(over.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
    return jax.tree.map(pick, fresh, old)


def stacked(trees: Sequence[Any], axis: int = 0) -> Any:
    """One tree of trees of the same shape, along a new axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *trees)
