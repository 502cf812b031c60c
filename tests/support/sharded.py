"""A net that trains on any mesh, one rule a layer; for fake devices and for real processes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding

import jsparse as js

P = jax.P
AXES = ("x", "y")
STEPS = 12
SEED = 1
"""Of the net: during these steps no weight lies on the edge of a mask."""
WIDTH = 16
TX = optax.sgd(0.2, momentum=0.9)


class Layout(NamedTuple):
    """How data, weights, weights as they are read, and features lie on a mesh with axes x and y."""

    batch: P
    weight: P
    read: P
    features: P


LAYOUTS = {
    "data parallel": Layout(P(AXES), P(), P(), P(AXES)),
    # thresholds are split with the weights; the weights are gathered when they are read
    "split weights": Layout(P(AXES), P(None, AXES), P(), P(AXES)),
    "split outputs": Layout(P(), P(None, AXES), P(None, AXES), P()),
    "data and outputs": Layout(P("x"), P("x", "y"), P(None, "y"), P("x")),
}
RULES = {
    "threshold": js.Threshold(alpha=3e-2),
    "top": js.Top(density=0.4),
    "held": js.Held(),
    "gibbs": js.Gibbs(density=0.4, beta=js.schedule.geometric(1.0, 1e3, 0, STEPS)),
}


class Net(nnx.Module):
    """Layers by the names of their rules, so that one compiled step trains with each of them."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs):
        self.layout = layout
        for name in RULES:
            setattr(self, name, nnx.Param(jax.random.normal(rngs.params(), (WIDTH, WIDTH))))

    def __call__(self, x: Array) -> Array:
        for name in RULES:
            weight = reshard(getattr(self, name)[...], self.layout.read)
            x = reshard(jnp.tanh(0.3 * x @ weight), self.layout.features)
        return x


def reshard(x: Array, spec: P) -> Array:
    """On an Explicit mesh the user says what is gathered; on an Auto mesh the compiler does."""
    explicit = AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
    return jax.sharding.reshard(x, spec) if explicit else x


@nnx.jit
def step(net: Net, optimizer: nnx.Optimizer, x: Array, y: Array) -> Array:
    def loss(net: Net) -> Array:
        return ((net(x) - y) ** 2).mean() + js.cost(net)

    value, grads = nnx.value_and_grad(loss)(net)
    optimizer.update(net, grads)
    return value


class Run(NamedTuple):
    """What a train step takes."""

    net: Net
    optimizer: nnx.Optimizer
    x: Array
    y: Array


def data() -> tuple[np.ndarray, np.ndarray]:
    """A batch of 64."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, WIDTH)).astype(np.float32)
    return x, np.tanh(x @ random.normal(size=(WIDTH, WIDTH)) / 2).astype(np.float32)


def start(net: Net, x: Array, y: Array) -> Run:
    """The net made sparse, with a mask for `held`, and an optimizer that steers its thresholds."""
    net = js.sparsify(net, *RULES.items())
    mask = jax.random.bernoulli(jax.random.key(3), 0.5, (WIDTH, WIDTH)).astype(jnp.float32)
    net.held.mask[...] = jax.device_put(mask, net.held.mask[...].sharding)
    net.threshold.threshold[...] += 0.3
    control = js.TargetDensity(density=0.3, steps=STEPS, gain=1.0, gain_memory=0.0, every=2)
    return Run(net, js.Optimizer(net, TX, controls=(control,)), x, y)


def dense(net: Net, x: Array, y: Array) -> Run:
    """The net as it is."""
    return Run(net, nnx.Optimizer(net, TX, wrt=nnx.Param), x, y)


def on_mesh(layout: Layout, mesh: Mesh) -> tuple[Net, Array, Array]:
    """A net and its data, split over the devices of a mesh."""
    net = Net(layout, nnx.Rngs(SEED))
    nnx.update(net, jax.device_put(nnx.state(net), NamedSharding(mesh, layout.weight)))
    batch = NamedSharding(mesh, layout.batch)
    return net, *(jax.device_put(a, batch) for a in data())


def train(run: Run) -> tuple[list[float], dict[str, np.ndarray]]:
    """The loss before each step, and the masks after the last."""
    losses = [float(step(*run)) for _ in range(STEPS)]
    return losses, {name: np.asarray(whole(m)) for name, m in js.masks(run.net).items()}


def whole(x: Array) -> Array:
    """All of an array, on each process."""
    mesh = getattr(x.sharding, "mesh", None)
    return x if mesh is None else jax.device_put(x, NamedSharding(mesh, P()))
