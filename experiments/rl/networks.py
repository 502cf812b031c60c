"""The networks of agents, and how they are made sparse by one argument."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import jsparse
from experiments.networks import torch_init
from jsparse import prune, schedule

HIDDEN = ".*fc[12]/kernel"
"""The weights that become sparse: the last layer of each network stays dense."""
EVERY = ".*/kernel"
"""All weights."""
Layers = list[tuple[Array, Array]]
"""Kernel and bias of each layer, as read: masked."""
Width = int | tuple[int, int]
"""Units of both hidden layers, or of each."""


class Grids(nnx.Linear):
    """A linear layer of grids that hold one 1 each, or none, and else 0.

    It takes the cells of the ones, whole numbers [n, grids] (the number of cells where there is
    none), and adds the rows of the kernel that they select: to [n, outputs].
    """

    def __call__(self, cells: Array) -> Array:
        grids = cells.shape[-1]
        sizes = [self.in_features // grids] * grids
        parts = jax.lax.split(self.kernel[...], sizes, axis=0)
        rows = [part.at[cells[:, n]].get(mode="fill", fill_value=0) for n, part in enumerate(parts)]
        return sum(rows) + self.bias[...][None]


def flax_init(inputs: int) -> dict[str, Any]:
    """Nothing but the defaults of `nnx.Linear`."""
    return {}


class MLP(nnx.Module):
    """Two hidden layers with ReLU: [n, inputs] to [n, outputs].

    Args:
      inputs, outputs: how many.
      width: of the hidden layers.
      rngs: of the weights.
      first: the first layer, `nnx.Linear` or something called like it.
      init: inputs of a layer -> its initializer; PyTorch's, or Flax's with `flax_init`.
    """

    def __init__(
        self, inputs: int, outputs: int, width: Width, rngs: nnx.Rngs, first: type = nnx.Linear,
        init: Callable[[int], dict[str, Any]] = torch_init,
    ):  # fmt: skip
        linear = lambda a, b, layer=nnx.Linear: layer(a, b, rngs=rngs, **init(a))
        one, two = width if isinstance(width, tuple) else (width, width)
        self.fc1, self.fc2 = linear(inputs, one, first), linear(one, two)
        self.fc3 = linear(two, outputs)

    def __call__(self, x: Array) -> Array:
        return self.fc3(nnx.relu(self.fc2(nnx.relu(self.fc1(x)))))

    def layers(self) -> Layers:
        """What `act` needs."""
        layers = (self.fc1, self.fc2, self.fc3)
        return [(layer.kernel[...], layer.bias[...]) for layer in layers]


class Actor(nnx.Module):
    """A deterministic policy: observations [n, observed] to actions [n, actions] in (-1, 1)."""

    def __init__(self, observed: int, actions: int, width: int, rngs: nnx.Rngs):
        self.net = MLP(observed, actions, width, rngs)

    def __call__(self, observation: Array) -> Array:
        return jnp.tanh(self.net(observation))


class Critic(nnx.Module):
    """Twin values of actions: two of [n]."""

    def __init__(self, observed: int, actions: int, width: int, rngs: nnx.Rngs):
        self.q1 = MLP(observed + actions, 1, width, rngs)
        self.q2 = MLP(observed + actions, 1, width, rngs)

    def __call__(self, observation: Array, action: Array) -> tuple[Array, Array]:
        both = jnp.concatenate([observation, action], axis=-1)
        return self.q1(both)[:, 0], self.q2(both)[:, 0]

    def first(self, observation: Array, action: Array) -> Array:
        """[n], the first of the two."""
        return self.q1(jnp.concatenate([observation, action], axis=-1))[:, 0]


class Trunk(nnx.Module):
    """A policy and critics that share all but their outputs.

    Observations [n, observed] to outputs of the policy [n, outputs] and values [n, critics].
    """

    def __init__(
        self, observed: int, outputs: int, critics: int, width: Width, rngs: nnx.Rngs,
        first: type = nnx.Linear,
    ):  # fmt: skip
        self.net, self.outputs = MLP(observed, outputs + critics, width, rngs, first), outputs

    def __call__(self, observation: Array) -> tuple[Array, Array]:
        both = self.net(observation)
        return both[..., : self.outputs], both[..., self.outputs :]


class Apart(nnx.Module):
    """A policy and critics, two networks that share nothing; called as `Trunk` is."""

    def __init__(self, observed: int, outputs: int, critics: int, width: Width, rngs: nnx.Rngs):
        self.policy = MLP(observed, outputs, width, rngs)
        self.critic = MLP(observed, critics, width, rngs)

    def __call__(self, observation: Array) -> tuple[Array, Array]:
        return self.policy(observation), self.critic(observation)


def forward(layers: Layers, x: Array) -> Array:
    """The output of an `MLP` of these layers: [..., inputs] to [..., outputs]."""
    *hidden, last = layers
    affine = lambda x, kernel, bias: x @ kernel + bias.reshape(*(1,) * (x.ndim - 1), -1)
    for layer in hidden:
        x = nnx.relu(affine(x, *layer))
    return affine(x, *last)


def act(layers: Layers, observation: np.ndarray) -> np.ndarray:
    """The actor in NumPy, for one observation or several: [..., observed] to [..., actions]."""
    *hidden, last = layers
    x = observation
    for kernel, bias in hidden:
        x = np.maximum(x @ kernel + bias, 0)
    return np.tanh(x @ last[0] + last[1])


Start = Callable[[nnx.Module, Array], nnx.Module]
"""(dense network, key) -> the network as it starts to train."""


class Kind(NamedTuple):
    """How the networks of an agent are sparse.

    Attributes:
      start: makes a network sparse.
      moved: (first, every, last) -> what changes its masks, by steps of its own optimizer.
    """

    start: Start = lambda network, key: network
    moved: Callable[..., jsparse.Revision] | None = None


def _masked(
    network: nnx.Module, key: Array, density: float, budget: Callable, which: str = HIDDEN
) -> nnx.Module:
    held = jsparse.sparsify(network, (which, jsparse.Held()))
    return prune.random(held, density=density, key=key, choose=prune.by_layer(budget))


def links(first: float, second: float) -> Start:
    """Random masks, with a number of links per input and output of the two hidden layers."""
    factor = {"fc1/kernel": first, "fc2/kernel": second}

    def budget(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
        by_path = {path: one for path in shapes for name, one in factor.items() if name in path}
        return schedule.erdos_renyi_links(by_path)(shapes, density)

    return partial(_masked, density=1.0, budget=budget)


def drawn(density: float, budget: Callable = schedule.erdos_renyi, which: str = HIDDEN) -> Start:
    """Random masks of a density over both hidden layers, or over all weights, `EVERY`."""
    return partial(_masked, density=density, budget=budget, which=which)


def learned(alpha: float) -> Start:
    """Thresholds that are learned, with a cost of alpha."""
    rule = jsparse.Threshold(alpha=alpha)
    return lambda network, key: jsparse.sparsify(network, (HIDDEN, rule))


def kinds(density: float, alpha: float) -> dict[str, Kind]:
    """Every way in which networks are made sparse here, at a density or with a cost of alpha."""
    moved = partial(jsparse.SET, by_sign=True)
    return {
        "dense": Kind(),
        "uniform": Kind(drawn(density, schedule.uniform)),
        "Erdos-Renyi": Kind(drawn(density)),
        "SET": Kind(drawn(density), moved),
        "RigL": Kind(drawn(density), jsparse.RigL),
        "thresholds": Kind(learned(alpha)),
    }


def weights(network: nnx.Module) -> dict[str, tuple[int, int]]:
    """Weights that a network reads, and all that it has, by path of the kernel; no biases."""
    masks = {path: np.asarray(mask) for path, mask in jsparse.masks(network).items()}
    state = nnx.to_flat_state(nnx.state(jsparse.fold(network), nnx.Param))
    kernels = {"/".join(map(str, path)): leaf for path, leaf in state if path[-1] == "kernel"}
    return {
        path: (int(masks[path].sum()) if path in masks else kernel.size, kernel.size)
        for path, kernel in kernels.items()
    }
