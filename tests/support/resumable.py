"""A small run with all that a checkpoint must hold; as a script it can be killed and goes on.

    python -m tests.support.resumable FOLDER STEPS

Prints "ready" before its first step, "saving N" and "saved N" about each checkpoint, and at last
the checksum of its final state.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._paths import named
from jsparse._storage.leaves import plain

WIDTH = 8
EVERY = 2  # steps between checkpoints
CURVE = js.schedule.geometric(1.0, 1e2, 0, 40)
RULES = (
    ("threshold/kernel", js.Threshold(alpha=3e-2)),
    ("gibbs/kernel", js.Gibbs(density=0.5, beta=CURVE)),
    ("gate/kernel", js.HardConcrete(lam=1e-3)),
    ("held/kernel", js.Held()),
)


class Net(nnx.Module):
    """One layer a rule, one of them in half precision, and dropout."""

    def __init__(self, seed: int, width: int = WIDTH):
        rngs = nnx.Rngs(seed)
        for pattern, _ in RULES:
            kind = jnp.bfloat16 if pattern.startswith("gate") else jnp.float32
            layer = nnx.Linear(width, width, param_dtype=kind, rngs=rngs)
            setattr(self, pattern.split("/")[0], layer)
        self.dropout = nnx.Dropout(0.2, rngs=nnx.Rngs(dropout=seed + 1))

    def __call__(self, x: Array) -> Array:
        for pattern, _ in RULES:
            x = jnp.tanh(getattr(self, pattern.split("/")[0])(x).astype(jnp.float32))
        return self.dropout(x)


class Batches:
    """Random batches; the position is the state of numpy's generator."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def get_state(self) -> dict:
        return self.random.bit_generator.state

    def set_state(self, state: dict) -> None:
        self.random.bit_generator.state = state

    def __next__(self) -> np.ndarray:
        return self.random.normal(size=(4, WIDTH)).astype(np.float32)


def start(seed: int = 0, width: int = WIDTH) -> dict[str, Any]:
    """Model, optimizer and some leaves beside them."""
    model = js.sparsify(Net(seed, width), *RULES, rngs=nnx.Rngs(seed))
    places = np.arange(width)
    model.held.kernel.mask[...] = jnp.asarray((places[:, None] + places) % 2, jnp.float32)
    tx = js.revise(optax.adam(1e-2), ("held/kernel", js.RigL(every=2, last=30)))
    control = js.TargetDensity(density=0.3, steps=40, every=2)
    wrt = (nnx.Param, js.Mask)
    return {
        "model": model,
        "optimizer": js.Optimizer(model, tx, wrt=wrt, controls=(control,)),
        "key": jax.random.key(seed),
        "average": jnp.asarray(0.5),  # of a weak type
        "best": float("inf"),
        "samples": np.zeros((), np.int64),
    }


@nnx.jit
def step(model: Net, optimizer: js.Optimizer, key: Array, x: Array) -> Array:
    def loss(model: Net) -> Array:
        noise = jax.random.normal(key, x.shape)
        return ((model(x) - noise) ** 2).mean() + js.cost(model)

    wanted = nnx.DiffState(0, (nnx.Param, js.Mask))
    value, grads = nnx.value_and_grad(loss, argnums=wanted)(model)
    optimizer.update(model, grads)
    return value


def train(run: dict[str, Any], batches: Batches, steps: int) -> dict[str, Any]:
    """The run after some more steps."""
    for _ in range(steps):
        key, draw = jax.random.split(run["key"])
        value = step(run["model"], run["optimizer"], draw, next(batches))
        run = {
            **run,
            "key": key,
            "average": 0.9 * run["average"] + 0.1 * float(value),
            "best": min(run["best"], float(value)),
            "samples": run["samples"] + 4,
        }
    return run


def leaves(run: Any) -> dict[str, np.ndarray]:
    """Every number of a run, by path."""
    states = jax.tree.map(
        lambda x: nnx.state(x) if isinstance(x, nnx.Pytree) else x,
        run,
        is_leaf=lambda x: isinstance(x, nnx.Pytree),
    )
    return {name: np.asarray(plain(name, leaf)) for name, leaf in named(states).items()}


def check_sum(run: Any) -> str:
    """Of every bit of a run."""
    total = hashlib.sha256()
    for name, array in leaves(run).items():
        total.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def main(folder: Path, steps: int) -> None:
    checkpoints, batches = js.Checkpoints(folder), Batches()
    done, run, position = checkpoints.restore(start(), data=batches.get_state())
    batches.set_state(position)
    print("ready", flush=True)
    for last in range(done + EVERY, steps + 1, EVERY):
        run = train(run, batches, EVERY)
        print(f"saving {last}", flush=True)
        checkpoints.save(last, run, data=batches.get_state())
        print(f"saved {last}", flush=True)
    print(check_sum(run), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
