"""Revisions, optimizers under them, and a tree that they train."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse as js

REVISIONS = {
    "gradual": js.Gradual(density=0.25, last=6, every=2),
    "set": js.SET(last=6, every=2, fraction=0.5),
    "rigl": js.RigL(last=8, every=2, fraction=0.5),
    "top-kast": js.TopKAST(density=0.25, backward=0.5, every=2),
    "ac/dc": js.ACDC(density=0.25, first=2, every=2, last=6),
    "usn": js.USN(density=0.25),
    "below": js.Below(quality=0.5, last=6, every=2),
}
SHAPE = (8, 16)


def labels(tree: Any) -> Any:
    """Kernels to one optimizer, the rest to another."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "kernel" if "kernel" in jax.tree_util.keystr(path) else "rest",
        tree,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),  # flax 0.11 asks for it
    )


INNERS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(1e-2),
    "lion": lambda: optax.lion(1e-2),
    "lamb": lambda: optax.lamb(1e-2),
    "sm3": lambda: optax.sm3(1e-2, momentum=0.9),
    "muon": lambda: optax.contrib.muon(1e-2),
    "clipped adamw": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(1e-2, 100)),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "accumulated": lambda: optax.MultiSteps(optax.adam(1e-2), every_k_schedule=2),
    "partitioned": lambda: optax.partition(
        {"kernel": optax.adam(1e-2), "rest": optax.sgd(0.1)}, labels
    ),
    "frozen rest": lambda: optax.masked(
        optax.adam(1e-2), lambda tree: jax.tree.map(lambda label: label == "kernel", labels(tree))
    ),
}


def tree(density: float = 0.5) -> dict:
    """A layer with a bias and a norm, and its mask."""
    keys = jax.random.split(jax.random.key(0), 2)
    mask = (jax.random.uniform(keys[0], SHAPE) < density).astype(jnp.float32)
    kernel = {"weight": jax.random.normal(keys[1], SHAPE), "mask": mask}
    return {"kernel": kernel, "bias": jnp.zeros(SHAPE[1]), "norm": {"scale": jnp.ones(SHAPE[1])}}


def gradients(like: dict, step: int) -> dict:
    """Of some loss: the mask receives the dense one, the weight what the mask lets through."""
    key = jax.random.fold_in(jax.random.key(1), step)
    random = jax.tree.map(lambda x: jax.random.normal(key, x.shape), like)
    kernel = random["kernel"] | {"weight": random["kernel"]["mask"] * like["kernel"]["mask"]}
    return random | {"kernel": kernel}


def run(tx: Any, start: dict, steps: int = 7) -> list[tuple[dict, Any]]:
    """The tree and the state of the optimizer after each step, the start first."""
    update = jax.jit(tx.update)
    seen = [(start, tx.init(start))]
    for step in range(steps):
        now, state = seen[-1]
        changes, state = update(gradients(now, step), state, now)
        seen.append((optax.apply_updates(now, changes), state))
    return seen


def applied(tx: Any, start: dict, steps: int = 7) -> list[tuple[dict, Any]]:
    """`run` by `apply`."""
    apply = jax.jit(tx.apply)
    seen = [(start, tx.init(start))]
    for step in range(steps):
        now, state = seen[-1]
        seen.append(apply(gradients(now, step), state, now))
    return seen


def kernels(seen: list) -> tuple[np.ndarray, np.ndarray]:
    """Weights and masks of a run, [steps, ...]."""
    return tuple(np.stack([t["kernel"][n] for t, _ in seen]) for n in ("weight", "mask"))  # type: ignore
