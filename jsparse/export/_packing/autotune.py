"""Measure layers in several storage formats, and the whole model with them; keep the fastest.

1. Shrink the model, and record the inputs of each layer that can be packed.
2. Time each layer as it is and in each format that stores clearly less, in turns.
3. Calls of the whole model decide which layers are packed, each in its fastest format.
4. Time the whole model folded, shrunk and packed, and keep the fastest.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from jsparse._paths import naming
from jsparse._pure import by_name, by_position, calling, examples, pure, settings
from jsparse._slots import Slot
from jsparse._surgery import fold
from jsparse._timing import clock, in_turns
from jsparse._untraced import outside_jit
from jsparse._values import check_mapping
from jsparse._watch import watch_in_place
from jsparse.export._packing.arrangement import Arrangement, fastest_arrangement
from jsparse.export._packing.dense import kernel_of, sides_of, stack_of
from jsparse.export._packing.layers import bytes_of, left_dense
from jsparse.export._packing.packed import Packed
from jsparse.export._packing.packers import Format, NotStored, blocks, check_format, csr
from jsparse.export._packing.picked import GAIN, Choice, Picked
from jsparse.export._packing.replacing import layers_of, put_in_place
from jsparse.export._shrinking.shrink import shrink

Model = TypeVar("Model", bound=nnx.Module)
DENSE, SHRUNK, PACKED = "dense", "shrunk", "packed"
FORMATS: Mapping[str, Format] = {
    "csr": csr(),
    "csr, no groups": csr(1 << 16),
    "csr, wide groups": csr(1152),  # of 128 features with a 3x3 window: suits single images
    "blocks 32": blocks((32, 32)),
    "blocks 64": blocks((64, 64)),
    "blocks 128": blocks((128, 128)),
}
WORTH = 0.7
"""A format that stores more than this fraction of the weights is not tried."""
ROUNDS, SAMPLE = 7, 0.01
"""Samples of each candidate, and how many seconds each sample takes."""


@outside_jit
def pick(
    model: Model, *example_inputs: Any, formats: Mapping[str, Format] = FORMATS, **options: Any
) -> Picked[Model]:
    """Store the layers that `pack` takes so that the model runs fastest here, at this input size.

    A layer is packed if it gains by itself or if the whole model gains: a convolution between
    packed ones need not transpose its images.

    Args:
      model: any NNX module, sparse or folded; not changed. It is measured in eval mode.
      *example_inputs: arguments of a call, of the batch size that matters, or their shapes.
      formats: what to try besides dense, by name.
      **options: arguments by name: arrays, or settings that are the same at each call.

    Returns:
      The model with the measurements; `print` shows them.

    Raises:
      ValueError: a format is named "dense".

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
    with settings(formats=formats):
        check_mapping("formats by name, such as {'csr': csr()}", formats=formats)
    for name, format in formats.items():
        check_format(format, f"formats[{name!r}]")
    if DENSE in formats:
        raise ValueError(
            f"formats[{DENSE!r}]: this name stands for the layer as it is; choose another"
        )
    model, given = by_position(model, example_inputs, options)
    example_inputs = examples(given)
    dense = fold(model)
    dense.eval()
    try:
        small = shrink(dense, *example_inputs)[0]
    except ValueError:  # the advice is to keep the folded model
        small = dense
    small.eval()
    why = left_dense(small)
    inputs = _called_with(small, example_inputs)
    places = layers_of(small)
    first = {_kernel(place): place.path for place in reversed(places)}  # where it is shared
    tried = {
        place.path: _choose(place.path, place.value, why, inputs, formats)
        for place in places
        if place.path == first[_kernel(place)]
    }
    stored = _arrange(small, list(tried.values()), formats, example_inputs)
    models = {DENSE: dense, SHRUNK: small}
    if stored:
        models[PACKED] = _packed(small, stored, formats)
    seconds = seconds_of(models, *example_inputs)
    best = min(seconds, key=lambda name: seconds[name])
    chosen = best if seconds[best] * GAIN <= seconds[DENSE] else DENSE
    kept = stored if chosen == PACKED else {}
    settled = {path: _with_choice(layer, kept.get(path, DENSE)) for path, layer in tried.items()}
    layers = [dataclasses.replace(settled[first[_kernel(one)]], path=one.path) for one in places]
    return Picked(
        model=by_name(models[chosen]),
        layers=tuple(layers),
        seconds=seconds,
        bytes={name: bytes_of(form) for name, form in models.items()},
        chosen=chosen,
    )


def seconds_of(models: Mapping[str, nnx.Module], *inputs: Any) -> dict[str, float]:
    """Seconds per call of each: the shortest of several samples, taken in turns."""
    clocks = {name: clock(model, *inputs) for name, model in models.items()}
    times = in_turns(clocks, ROUNDS, sample=SAMPLE)
    return {name: float(each.min()) for name, each in times.items()}


def _choose(
    path: str,
    layer: Any,
    why: Mapping[str, str],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    formats: Mapping[str, Format],
) -> Choice:
    kernel = np.asarray(layer.kernel[...])
    density = np.count_nonzero(kernel) / max(1, kernel.size)
    seen = inputs.get(path)
    axes = 1 if path in why else len(sides_of(layer).ins)
    rows = math.prod(seen.shape[:-axes]) if seen else 0
    stays = Choice(
        path=path,
        shape=kernel.shape,
        density=density,
        rows=rows,
        seconds={},
        bytes={DENSE: bytes_of(layer)},
        chosen=DENSE,
        why=why.get(path, "" if seen else "this call does not call it"),
    )
    if stays.why or seen is None:
        return stays
    with naming(path):
        made = _worth_trying(layer, formats)
    if not made:
        reason = f"no format stores less than {WORTH:.0%} of it"
        return dataclasses.replace(stays, why=reason)
    forms, stack = {DENSE: layer, **made}, stack_of(layer)
    seconds = seconds_of({name: _first_of(one, stack) for name, one in forms.items()}, seen)
    sizes = {name: bytes_of(one) for name, one in forms.items()}
    return dataclasses.replace(stays, seconds=seconds, bytes=sizes)


def _first_of(layer: nnx.Module, stack: tuple[int, ...]) -> nnx.Module:
    """The first layer of a stack; the layer itself if it is a single one."""
    if not stack:
        return layer
    graphdef, state = nnx.split(layer)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[(0,) * len(stack)], state))


def _arrange(
    small: nnx.Module, layers: Sequence[Choice], formats: Mapping[str, Format], inputs: tuple
) -> Arrangement:
    """The format of each layer to pack, by path, by calls of the whole model."""

    def seconds(*two: Arrangement) -> tuple[float, float]:
        models = {str(n): _packed(small, stored, formats) for n, stored in enumerate(two)}
        first, second = seconds_of(models, *inputs).values()
        return first, second

    measured = {layer.path: _best(layer) for layer in layers if layer.seconds}
    best = {path: name for path, (name, _) in measured.items()}
    gains = {path: gain for path, (_, gain) in measured.items()}
    return fastest_arrangement(gains, best, GAIN, seconds)


def _best(layer: Choice) -> tuple[str, float]:
    """The fastest format that is not dense, and how many times as fast as dense it is."""
    others = {name: seconds for name, seconds in layer.seconds.items() if name != DENSE}
    best = min(others, key=lambda name: others[name])
    return best, layer.seconds[DENSE] / others[best]


def _with_choice(layer: Choice, chosen: str) -> Choice:
    """The layer with the format chosen for it, and why, in words; unchanged if not measured."""
    if not layer.seconds:
        return layer
    best, gain = _best(layer)
    why = f"{gain:.1f}x as fast as dense"
    if chosen == DENSE:
        why = f"{best} is {gain:.2f}x as fast, {GAIN}x is asked"
    if (chosen == DENSE) != (gain < GAIN):
        whole = "is no faster" if chosen == DENSE else "is faster"
        why = f"{best} is {gain:.2f}x as fast alone; the whole model {whole} with it"
    return dataclasses.replace(layer, chosen=chosen, why=why)


def _packed(small: Model, stored: Arrangement, formats: Mapping[str, Format]) -> Model:
    """A copy of the model with layers in these formats, by the first path of each."""
    packed = fold(small)
    places = layers_of(packed)
    named = {_kernel(place): stored[place.path] for place in places if place.path in stored}
    able = [place for place in places if _kernel(place) in named]
    return put_in_place(packed, able, lambda place: formats[named[_kernel(place)]](place.value))


def _kernel(place: Slot) -> int:
    """A key that layers in two places have in common if they are one, or share their kernel."""
    return id(place.value.kernel)


def _worth_trying(layer: Any, formats: Mapping[str, Format]) -> dict[str, Packed]:
    """The layer in each format that stores clearly less than the kernel, none of them twice."""
    size = kernel_of(layer).size
    found: dict[str, Packed] = {}
    stored = []
    for name, format in formats.items():
        try:
            made = format(layer)
        except NotStored:
            continue
        settings = (type(made), getattr(made, "width", 0), getattr(made, "block", ()))
        if made.values.size <= WORTH * size and settings not in stored:
            found[name] = made
            stored.append(settings)
    return found


def _called_with(model: nnx.Module, inputs: tuple) -> dict[str, jax.ShapeDtypeStruct]:
    """The input of each layer that is called, by path; the largest where it is called twice."""
    seen: dict[int, jax.ShapeDtypeStruct] = {}
    copy = fold(model)
    layers = {place.path: place.value for place in layers_of(copy)}
    for layer in layers.values():

        def note(_: Any, x: Any, out: Any, name: int = id(layer)) -> None:
            if name not in seen or x.size > seen[name].size:
                seen[name] = jax.ShapeDtypeStruct(x.shape, x.dtype)

        watch_in_place(layer, note)
    run, variables, _ = pure(copy)
    with calling("example_inputs", inputs):
        jax.eval_shape(run, variables, *inputs)
    return {path: seen[id(layer)] for path, layer in layers.items() if id(layer) in seen}
