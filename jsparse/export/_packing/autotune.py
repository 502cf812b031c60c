"""Choose how each layer is stored by measuring it: dense, shrunk, single weights or blocks.

1. Shrink the model; find what each layer that can be packed is called with.
2. Time each layer as it is and in each format that holds clearly less, in turns.
3. Put the fastest in place; dense stays unless another is clearly faster.
4. Time the whole model folded, shrunk and packed, and keep the fastest.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._surgery import fold
from jsparse.export._packing.layers import (
    Format,
    blocks,
    csr,
    kernel_of,
    layers_of,
    left_dense,
    pack,
)
from jsparse.export._shrinking.shrink import shrink

Model = TypeVar("Model", bound=nnx.Module)
DENSE, SHRUNK, PACKED = "dense", "shrunk", "packed"
FORMATS: Mapping[str, Format] = {
    "csr": csr(),
    "csr, no groups": csr(1 << 16),
    "blocks 32": blocks((32, 32)),
    "blocks 64": blocks((64, 64)),
    "blocks 128": blocks((128, 128)),
}
GAIN = 1.1
"""Faster by this than dense, to take its place."""
WORTH = 0.7
"""A format that stores more than this part of the weights is not tried."""
ROUNDS, SAMPLE = 7, 0.01
"""Samples of each candidate, and the seconds one fills."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """How a layer is stored, and why.

    Attributes:
      path: of the layer.
      shape: of its kernel, [in, out], after shrinking.
      density: of its kernel.
      rows: of its input.
      seconds: of a call, by format; empty if nothing was measured.
      chosen: the format.
      why: in words.
    """

    path: str
    shape: tuple[int, ...]
    density: float
    rows: int
    seconds: Mapping[str, float]
    chosen: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picked(Generic[Model]):
    """A model whose layers are stored as runs fastest; prints as a table.

    Attributes:
      model: plain, without rules.
      layers: what was chosen for each.
      seconds: of a call of the whole model, by "dense", "shrunk" and "packed".
      chosen: which of those the model is.
    """

    model: Model
    layers: tuple[Choice, ...]
    seconds: Mapping[str, float]
    chosen: str

    def __str__(self) -> str:
        rows = [["layer", "kernel", "density", "rows", "ms", "stored as", "why"]]
        for layer in self.layers:
            each = ", ".join(f"{name} {1e3 * s:.3f}" for name, s in layer.seconds.items())
            shape = "x".join(map(str, layer.shape))
            row = [layer.path or "(model)", shape, f"{layer.density:.1%}", str(layer.rows)]
            rows.append([*row, each or "-", layer.chosen, layer.why])
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        whole = ", ".join(f"{name} {1e3 * s:.3f} ms" for name, s in self.seconds.items())
        return "\n".join([*lines, f"whole model: {whole}; chosen: {self.chosen}"])


def pick(
    model: Model, *example_inputs: Any, formats: Mapping[str, Format] = FORMATS
) -> Picked[Model]:
    """The model with each linear layer stored as runs fastest here, for inputs of this size.

    Args:
      model: any NNX module, sparse or folded; left as it is. It is measured in eval mode.
      *example_inputs: arguments of a call, of the batch size that matters.
      formats: what to try besides dense, by name.

    Returns:
      The model with the measurements; `print` shows them.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> model = sparsify(nnx.Sequential(nnx.Linear(64, 32, rngs=nnx.Rngs(0))),
      ...                  (".*/kernel", Top(density=0.1)))
      >>> picked = pick(model, jnp.ones((8, 64)))
      >>> picked.model(jnp.ones((8, 64))).shape, len(picked.layers)
      ((8, 32), 1)
    """
    dense = fold(model)
    dense.eval()
    try:
        small = shrink(dense, *example_inputs)[0]
    except ValueError:  # it says that the folded model is to be kept
        small = dense
    small.eval()
    why = left_dense(small)
    inputs = _called_with(small, example_inputs)
    layers = []
    packed = small
    for place in layers_of(small):
        choice, format = _choose(place.path, place.value, why, inputs, formats)
        layers.append(choice)
        if choice.chosen != DENSE:
            packed = pack(packed, format, re.escape(place.path))
    models = {DENSE: dense, SHRUNK: small} | ({PACKED: packed} if packed is not small else {})
    calls = {name: _call(one, example_inputs) for name, one in models.items()}
    seconds = in_turns(calls)
    chosen = _fastest(seconds)
    return Picked(model=models[chosen], layers=tuple(layers), seconds=seconds, chosen=chosen)


def in_turns(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds a call of each takes: the least of some samples, taken in turns."""
    counts = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        counts[name] = max(1, round(SAMPLE / _time(call, 3)))
    samples = [
        {name: _time(call, counts[name]) for name, call in calls.items()} for _ in range(ROUNDS)
    ]
    return {name: min(sample[name] for sample in samples) for name in calls}


def _time(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / count


def _choose(
    path: str,
    layer: Any,
    why: Mapping[str, str],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    formats: Mapping[str, Format],
) -> tuple[Choice, Format]:
    kernel = np.asarray(layer.kernel[...])
    density = np.count_nonzero(kernel) / max(1, kernel.size)
    seen = inputs.get(path)
    rows = int(np.prod(seen.shape[:-1])) if seen else 0
    about = {"path": path, "shape": kernel.shape, "density": density, "rows": rows}

    def stays(reason: str) -> tuple[Choice, Format]:
        return Choice(**about, seconds={}, chosen=DENSE, why=reason), csr()

    if path in why:
        return stays(why[path])
    if seen is None:
        return stays("this call does not call it")
    made = {name: format(layer) for name, format in _worth_trying(layer, formats).items()}
    if not made:
        return stays(f"no format stores less than {WORTH:.0%} of it")
    x = jnp.asarray(np.random.default_rng(0).standard_normal(seen.shape), seen.dtype)
    models = {DENSE: layer, **made}
    seconds = in_turns({name: _call(one, (x,)) for name, one in models.items()})
    chosen = _fastest(seconds)
    best = min(made, key=lambda name: seconds[name])
    gain = seconds[DENSE] / seconds[best]
    reason = f"{gain:.1f}x as fast as dense"
    if chosen == DENSE:
        reason = f"{best} is {gain:.2f}x as fast, {GAIN}x is asked"
    choice = Choice(**about, seconds=seconds, chosen=chosen, why=reason)
    return choice, formats.get(chosen, csr())


def _worth_trying(layer: Any, formats: Mapping[str, Format]) -> dict[str, Format]:
    """Formats that store clearly less than the kernel, none of them twice."""
    size = kernel_of(layer).size
    found: dict[str, Format] = {}
    stored = []
    for name, format in formats.items():
        made = format(layer)
        settings = (type(made), getattr(made, "width", 0), getattr(made, "block", ()))
        if made.values.size <= WORTH * size and settings not in stored:
            found[name] = format
            stored.append(settings)
    return found


def _fastest(seconds: Mapping[str, float]) -> str:
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * GAIN <= seconds[DENSE] else DENSE


def _call(model: nnx.Module, inputs: tuple) -> Callable[[], Any]:
    """A compiled call of a model, ready to be timed."""
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, *inputs: nnx.merge(graphdef, state)(*inputs))
    return lambda: run(state, *inputs)


class _Watch(nnx.Module):
    """A layer that tells what it is called with."""

    def __init__(self, layer: nnx.Module, tell: Callable[[Any], None]):
        self.layer, self.tell = layer, tell

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        self.tell(x)
        return self.layer(x, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "layer" not in vars(self):
            raise AttributeError(name)
        return getattr(self.layer, name)


def _called_with(model: nnx.Module, inputs: tuple) -> dict[str, jax.ShapeDtypeStruct]:
    """What each layer gets that is called, by path; the largest where it is called twice."""
    seen: dict[str, jax.ShapeDtypeStruct] = {}

    def tell(path: str) -> Callable[[Any], None]:
        def note(x: Any) -> None:
            if path not in seen or x.size > seen[path].size:
                seen[path] = jax.ShapeDtypeStruct(x.shape, x.dtype)

        return note

    copy = fold(model)
    places = layers_of(copy)
    if not places or not places[0].path:
        copy = _Watch(copy, tell(""))
    watches = {id(place.value): _Watch(place.value, tell(place.path)) for place in places[::-1]}
    for place in places:
        if place.path:
            place.put(watches[id(place.value)])
    graphdef, state = nnx.split(copy)
    jax.eval_shape(lambda state, *args: nnx.merge(graphdef, state)(*args), state, *inputs)
    first = {id(place.value): place.path for place in places[::-1]}
    names = {place.path: first[id(place.value)] for place in places}
    return {path: seen[name] for path, name in names.items() if name in seen}
