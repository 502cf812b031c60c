"""Every rule and every layer, once: the contract tests walk these two lists.

A new rule adds one line to RULES.
"""

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, experimental

import jsparse as js

RULES = {
    "keep": js.Keep(),
    "held": js.Held(),
    "threshold": js.Threshold(alpha=1e-2),
    "threshold whole": js.Threshold(scope=js.Whole()),
    "threshold each": js.Threshold(scope=js.Each()),
    "threshold kernel": js.Threshold(unit=js.Kernel()),
    "threshold filter": js.Threshold(unit=js.Filter()),
    "threshold channel": js.Threshold(unit=js.Channel(), scope=js.Each()),
    "threshold block": js.Threshold(unit=js.Block((2, 3)), scope=js.Each()),
    "top": js.Top(density=0.4),
    "top per output": js.Top(density=0.4, scope=js.PerOutput()),
    "top 1:2": js.Top(density=0.5, scope=js.Groups(2)),
    "top filter": js.Top(density=0.5, unit=js.Filter()),
    "top channel": js.Top(density=0.5, unit=js.Channel()),
    "top block": js.Top(density=0.5, unit=js.Block((2, 3))),
    "top whole model": js.Top(density=0.4, scope=js.WholeModel()),
    "hard concrete": js.HardConcrete(lam=1e-2),
    "hard concrete channel": js.HardConcrete(lam=1e-2, unit=js.Channel()),
    "soft threshold": js.SoftThreshold(),
    "soft threshold channel": js.SoftThreshold(unit=js.Channel(), scope=js.Each()),
    "movement": js.Movement(density=js.schedule.cubic(0.6, 0.2, 0, 9)),
    "movement block": js.Movement(density=0.4, unit=js.Block((2, 3)), scope=js.WholeModel()),
    "soft movement": js.SoftMovement(lam=1.0),
    "powerpropagation": js.Powerpropagation(density=0.4),
    "powerpropagation channel": js.Powerpropagation(density=0.5, unit=js.Channel()),
    # each read adds the decay once: here too little to see
    "sr-ste 1:2": js.SRSTE(density=0.5, decay=1e-6, scope=js.Groups(2)),
    "gibbs": js.Gibbs(density=0.4, beta=1.0),
    "gibbs kernel": js.Gibbs(density=0.4, beta=1.0, unit=js.Kernel(), coupling=0.02),
    "gibbs filter": js.Gibbs(density=0.4, beta=0.1, unit=js.Filter(), sweeps=3),
    "gibbs block": js.Gibbs(
        density=0.4, beta=1.0, unit=js.Block((2, 3)), scope=js.WholeModel(), coupling=0.02
    ),
}


class Layer(NamedTuple):
    """A stock layer.

    Attributes:
      make: builds it.
      pattern: of the weights that become sparse.
      weights: how many there are.
      call: runs it on fixed inputs.
      groupable: whether the length of its last input axis is even, so that 1:2 fits.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    pattern: str
    weights: int
    call: Callable[[Any], Array]
    groupable: bool = True


class Raw(nnx.Module):
    """A user's own module with a raw parameter, used the ways that people use them."""

    def __init__(self, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (4, 6)))
        self.scale = nnx.Param(jnp.ones(6))

    def __call__(self, x: Array) -> Array:
        return (x @ self.w + jnp.dot(x, self.w[...]) + x @ self.w.T.T) * self.scale[None]


class Shared(nnx.Module):
    """One parameter in two places."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.second = nnx.Linear(4, 4, rngs=rngs)
        self.second.kernel = self.first.kernel

    def __call__(self, x: Array) -> Array:
        return self.second(jnp.tanh(self.first(x)))


class Stacked(nnx.Module):
    """Three layers in one, run by a scan."""

    def __init__(self, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def make(rngs: nnx.Rngs) -> nnx.Linear:
            return nnx.Linear(4, 4, rngs=rngs)

        self.layers = make(rngs)

    def __call__(self, x: Array) -> Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def forward(layer: nnx.Linear, x: Array) -> Array:
            return jnp.tanh(layer(x))

        return forward(self.layers, x)


def _inputs(*shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(7).standard_normal(shape, np.float32))


def _cell(cell: nnx.RNNCellBase) -> Array:
    carry = cell.initialize_carry((2, 4), nnx.Rngs(0))
    carry = jax.tree.map(lambda c: c + 0.5, carry)  # from 0 the recurrent kernels get no gradient
    return cell(carry, _inputs(2, 4))[1]


def _attention(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)


def _lstm(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.LSTMCell(4, 6, rngs=rngs)


WHOLE = ("every kernel of attention", "every kernel of lstm")
"""Slow under every rule."""
CELLS = ("optimized lstm", "gru")
"""Slow under all rules but `Threshold`: a kernel of theirs is like one of "lstm"."""
LAYERS = {
    "linear": Layer(lambda r: nnx.Linear(4, 6, rngs=r), "kernel", 1, lambda m: m(_inputs(2, 4))),
    "linear general": Layer(
        lambda r: nnx.LinearGeneral((2, 4), (3, 2), axis=(-2, -1), rngs=r),
        "kernel",
        1,
        lambda m: m(_inputs(2, 2, 4)),
    ),
    "conv": Layer(
        lambda r: nnx.Conv(2, 6, (3, 3), rngs=r), "kernel", 1, lambda m: m(_inputs(2, 5, 5, 2))
    ),
    "grouped conv": Layer(
        lambda r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r),
        "kernel",
        1,
        lambda m: m(_inputs(2, 5, 5, 4)),
    ),
    "depthwise conv": Layer(
        lambda r: nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=r),
        "kernel",
        1,
        lambda m: m(_inputs(2, 5, 5, 4)),
        False,
    ),
    "conv transpose": Layer(
        lambda r: nnx.ConvTranspose(2, 6, (3,), rngs=r), "kernel", 1, lambda m: m(_inputs(2, 5, 2))
    ),
    "conv transposed kernel": Layer(
        lambda r: nnx.ConvTranspose(6, 2, (3,), transpose_kernel=True, rngs=r),
        "kernel",
        1,
        lambda m: m(_inputs(2, 5, 6)),
    ),
    "einsum": Layer(
        lambda r: nnx.Einsum("bi,hio->bho", (2, 4, 3), rngs=r),
        "kernel",
        1,
        lambda m: m(_inputs(2, 4)),
    ),
    "embed": Layer(
        lambda r: nnx.Embed(6, 4, rngs=r),
        "embedding",
        1,
        lambda m: m(jnp.arange(6)) @ m.attend(_inputs(2, 4)).T[:4],
    ),
    # two kernels here, which compile in a third of the time; WHOLE has them all
    "attention": Layer(_attention, "(query|out)/kernel", 2, lambda m: m(_inputs(2, 3, 4))),
    "lstm": Layer(_lstm, "(ii|hf)/kernel", 2, _cell),
    "every kernel of attention": Layer(_attention, ".*/kernel", 4, lambda m: m(_inputs(2, 3, 4))),
    "every kernel of lstm": Layer(_lstm, ".*/kernel", 8, _cell),
    "optimized lstm": Layer(lambda r: nnx.OptimizedLSTMCell(4, 6, rngs=r), ".*/kernel", 2, _cell),
    "gru": Layer(lambda r: nnx.GRUCell(4, 6, rngs=r), ".*/kernel", 2, _cell),
    "raw parameter": Layer(Raw, "w", 1, lambda m: m(_inputs(2, 4))),
    "shared": Layer(Shared, "first/kernel", 1, lambda m: m(_inputs(2, 4))),
    "stacked": Layer(Stacked, ".*/kernel", 1, lambda m: m(_inputs(2, 4))),
}


@cache
def dense(layer: str) -> nnx.Module:
    """The layer without a rule, made once; `sparsify` copies it."""
    return LAYERS[layer].make(nnx.Rngs(0))


def sparse(rule: str, layer: str) -> nnx.Module:
    """The layer under the rule, with weights of size about 1 and thresholds that cut some."""
    model = js.sparsify(dense(layer), (LAYERS[layer].pattern, RULES[rule]))
    for path, part in enumerate(parts(model)):
        draw = np.random.default_rng((2, path))  # by NumPy, which compiles nothing
        part.weight[...] = jnp.asarray(draw.standard_normal(part.weight.shape, np.float32))
        for name, old in part.state.items():
            drawn = draw.standard_normal(old.shape, np.float32)
            scale = {"logits": 3.0, "scores": 3.0, "s": 0.3}.get(name)
            if name == "threshold":
                part.set_state({name: jnp.asarray(np.full_like(drawn, 0.7))})
            elif name == "mask":
                part.set_state({name: jnp.asarray((drawn < 0).astype(np.float32))})
            elif scale:
                part.set_state({name: jnp.asarray(np.float32(scale) * drawn)})
    moving = {"cut", "draw", "step"}  # what events change, such as the cut of a whole model
    return js.advance(model) if any(moving & set(p.state_names) for p in parts(model)) else model


def enable_x64() -> AbstractContextManager:
    """64-bit types inside a `with` block, by the name that this version of JAX has for it."""
    return getattr(jax, "enable_x64", getattr(experimental, "enable_x64", None))(True)


def parts(model: nnx.Module) -> list[js.Sparse]:
    """Each Sparse of a model, once."""
    from jsparse._slots import sparse_parts

    return list(sparse_parts(model).values())


def needs(package: str) -> pytest.MarkDecorator:
    """Leave a test out where a package of the experiments is not installed."""
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


UNITS = [js.Weight(), js.Filter(), js.Channel(), js.Block((2, 4))]


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def units_of(unit, shape: tuple) -> list[tuple]:
    """(place in the grid, slices of the weight) of each unit."""
    tile = unit.tile(shape, js.Role())
    grid = [-(-n // t) for n, t in zip(shape, tile, strict=True)]
    return [
        (place, tuple(slice(i * t, (i + 1) * t) for i, t in zip(place, tile, strict=True)))
        for place in np.ndindex(*grid)
    ]
