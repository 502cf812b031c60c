"""Q-learning with a network on sampled steps of a product of grid and automaton.

One network for all states of the automaton, which is told the state or has one set of masks per
state, or one network per state, as the authors have it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from experiments.rl.environments.grids import Product
from experiments.rl.learning import stacked
from experiments.rl.networks import EVERY, MLP, drawn, flax_init

DISCOUNT, COPY = 0.95, 50
"""COPY: steps between copies of the network that values what comes next."""


class Arm(NamedTuple):
    """How the states of the automaton share a network.

    Attributes:
      density: of the weights, in each state.
      own: "input" where the network is told the state, "masks" where each state has its own masks,
        "networks" where each has a network.
    """

    density: float
    own: str


AXES: dict[str, tuple] = {"input": (None, None), "masks": (None, 0), "networks": (0, 0)}
"""The axis over which states have their own parameters, and masks."""


class Net(NamedTuple):
    """A network and what it reads.

    Attributes:
      graph: of the module.
      params: what is learned.
      rest: the masks.
      x: [states or cells, inputs].
      own: of the arm.
    """

    graph: Any
    params: Any
    rest: Any
    x: Array
    own: str

    def table(self, params: Any) -> Array:
        """Values of all states of the product, [states, actions]."""
        one = lambda params, rest: nnx.merge(self.graph, params, rest)(self.x)
        if AXES[self.own] == (None, None):
            return one(params, self.rest)
        found = jax.vmap(one, AXES[self.own], axis_size=self.count())(params, self.rest)
        return found.reshape(-1, found.shape[-1])

    def count(self) -> int:
        """States of the automaton that have their own parameters or masks."""
        own = self.params if self.own == "networks" else self.rest
        return len(jax.tree.leaves(own)[0])


def begin(
    arm: Arm, shape: tuple[int, int], states: int, actions: int, width: int, seed: int
) -> Net:
    """A network for a grid of this shape and a number of states of the automaton."""
    row, column = np.indices(shape).reshape(2, -1)
    x = np.concatenate([np.eye(shape[0])[row], np.eye(shape[1])[column]], axis=1)
    if arm.own == "input":
        x = np.concatenate([np.tile(x, (states, 1)), np.repeat(np.eye(states), len(x), 0)], axis=1)
    x = jnp.asarray(x, jnp.float32)

    def one(start: int, masks: int) -> nnx.Module:
        model = MLP(x.shape[1], actions, width, nnx.Rngs(start), init=flax_init)
        return drawn(arm.density, which=EVERY)(model, jax.random.key(masks))

    first = 1000 * seed
    alone, varied = arm.own == "networks", arm.own != "input"
    models = [one(first + n * alone, first + n) for n in range(states if varied else 1)]
    parts = [nnx.split(model, nnx.Param, ...) for model in models]
    graph, params, rest = parts[0]
    params = stacked([part[1] for part in parts]) if alone else params
    rest = stacked([part[2] for part in parts]) if varied else rest
    return Net(graph, params, rest, x, arm.own)


def weights(net: Net) -> tuple[int, int]:
    """Weights that one state of the automaton reads, and that any state reads; without biases."""
    count = 1 if net.own == "input" else net.count()
    masks = [np.asarray(leaf).reshape(count, -1) for leaf in jax.tree.leaves(net.rest)]
    one = sum(int(mask[0].sum()) for mask in masks)
    union = sum(int(mask.any(axis=0).sum()) for mask in masks)
    return one, one * count if net.own == "networks" else union


@partial(jax.jit, static_argnames=("graph", "own", "steps"))
def _trained(
    graph: Any, own: str, params: Any, rest: Any, x: Array, made: Product, key: Array, steps: int
) -> Any:
    net, tx, batch = Net(graph, params, rest, x, own), optax.adam(2e-3), 256

    def step(at: tuple, key: Array) -> tuple[tuple, None]:
        params, target, state, n = at
        target = jax.tree.map(lambda old, new: jnp.where(n % COPY == 0, new, old), target, params)
        which, act, slip, drawn = jax.random.split(key, 4)
        seen = jax.random.randint(which, (batch,), 0, len(made.nexts))
        action = jax.random.randint(act, (batch,), 0, made.nexts.shape[1])
        slips = (jax.random.uniform(slip, (batch,)) < made.slip) & (action < made.moves)
        other = jax.random.randint(drawn, (batch,), 0, made.moves)
        happened = jnp.where(slips, other, action)
        new, valid = made.nexts[seen, happened], made.allowed[seen, action]
        ahead = jnp.where(made.allowed[new], net.table(target)[new], -jnp.inf).max(axis=1)
        paid = made.accepted[seen, happened].astype(ahead.dtype)
        goal = jnp.where(made.ended[seen, happened], paid, DISCOUNT * jnp.clip(ahead, 0, 1))

        def loss(params: Any) -> Array:
            return (valid * (net.table(params)[seen, action] - goal) ** 2).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), target, state, n + 1), None

    start = (params, params, tx.init(params), jnp.int32(0))
    return jax.lax.scan(step, start, jax.random.split(key, steps))[0][0]


def trained(net: Net, made: Product, steps: int, seed: int) -> Array:
    """The values [states, actions] after steps of Adam, each on 256 random states and actions."""
    key = jax.random.key(seed)
    params = _trained(net.graph, net.own, net.params, net.rest, net.x, made, key, steps)
    return net.table(params)
