"""Trees to save, and what it means that they are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental.sparse import BCOO

import jsparse as js
from tests.support.resumable import leaves


def small(scale: float) -> dict:
    """Every kind of leaf."""
    return {
        "w": jnp.arange(6.0).reshape(2, 3) * scale,
        "half": jnp.asarray([1 / 3, 2 / 3], jnp.bfloat16) * jnp.asarray(scale, jnp.bfloat16),
        "small": jnp.asarray([1.5, -2.0], jnp.float8_e4m3fn),
        "key": jax.random.key(int(scale)),
        "keys": jax.random.split(jax.random.key(int(scale), impl="rbg"), 3),
        "flags": jnp.asarray([True, scale > 1]),
        "empty": jnp.zeros((0, 4)),
        "nested": [np.arange(3) * int(scale), (int(scale), scale, True, 2j * scale)],
        "weak": jnp.asarray(scale),
        "weak row": jnp.full(3, scale),
        "numpy": np.float64(scale),
        "sparse": BCOO((jnp.ones(2) * scale, jnp.asarray([[0, 0], [1, 1]])), shape=(2, 2)),
        "": jnp.ones(3) * scale,
        "array": jnp.zeros(2) + scale,
        "on a device": jax.device_put(jnp.ones(2) * scale, jax.devices()[3]),
    }


def assert_same(one, two) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True
    ):
        assert type(a) is type(b), path
        for fact in ("dtype", "shape", "weak_type", "sharding", "committed"):
            assert getattr(a, fact, None) == getattr(b, fact, None), (path, fact)
    same_bits(leaves(one), leaves(two))


def same_bits(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert array.dtype == two[name].dtype and array.shape == two[name].shape, name
        assert array.tobytes() == two[name].tobytes(), name


def layer(seed: int, width: int = 3) -> dict:
    model = nnx.Linear(4, width, rngs=nnx.Rngs(seed))
    model = js.sparsify(model, ("kernel", js.Threshold()))
    return {"model": model, "optimizer": js.Optimizer(model, optax.adam(1e-3))}
