"""Scores of output units by their activations, after the nonlinearity.

1. Run the model on batches and read activations [samples, places..., units].
2. A unit's score is the mean over samples and places of |a|, of -|a|, or of a != 0.

Numbers: experiments/dropnet.py.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._budget import Shapes
from jsparse._paths import listed
from jsparse._slots import walk_modules
from jsparse._surgery import hold
from jsparse._values import check_batches, check_function, check_is, check_whole
from jsparse._watch import watch_in_place
from jsparse.prune._choice import Arrays
from jsparse.rules._rule import APART

Activations = Callable[[Any, Any], Arrays]
"""(model, batch) -> activations after the nonlinearity, [samples, ..., units], by the path of the
weight whose outputs they are, such as {"fc1/kernel": nnx.relu(model.fc1(batch))}."""


@dataclass(frozen=True)
class _Mean:
    """Scores units by a mean over samples and places."""

    activations: Activations
    batches: Iterable[Any] = field(repr=False)
    worth: ClassVar[Callable[[Array], Array]]

    def __post_init__(self) -> None:
        check_function(activations=self.activations)
        check_batches(self.batches)

    def __call__(self, model: nnx.Module, shapes: Shapes) -> Arrays:
        """float32 [units] by path of the weight, of a copy of the model in eval mode.

        Raises:
          ValueError: no batches, no activations of a weight, or of another shape.
        """
        model = hold(model)
        model.eval()
        totals = {path: np.zeros(shape) for path, shape in shapes.items()}
        counts = dict.fromkeys(shapes, 0)
        for batch in self.batches:
            found = self.activations(model, batch)
            for path, shape in shapes.items():
                values = _read(found, path, shape)
                places = tuple(range(values.ndim - len(shape)))
                mean = np.asarray(type(self).worth(values).mean(axis=places), np.float64)
                size = len(values)
                totals[path], counts[path] = totals[path] + size * mean, counts[path] + size
        if not all(counts.values()):
            raise ValueError("no batches; pass a list, which can be read again")
        return {path: jnp.asarray(totals[path] / counts[path], jnp.float32) for path in shapes}


class Minimum(_Mean):
    """Drop the units with the lowest mean |activation|: DropNet's own choice.

    Args:
      activations: of a model and a batch; the model is in eval mode.
      batches: read once per round, such as a list of arrays of inputs.

    Example:
      >>> import jax.numpy as jnp
      >>> layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
      >>> score = Minimum(lambda model, x: {"kernel": nnx.relu(model(x))}, [jnp.ones((4, 2))])
      >>> score(layer, {"kernel": (3,)})["kernel"].shape
      (3,)
    """

    worth = staticmethod(jnp.abs)


class Maximum(_Mean):
    """Drop the units with the highest mean |activation|, as a control; see `Minimum`."""

    worth = staticmethod(lambda a: -jnp.abs(a))


class APoZ(_Mean):
    """Drop the units that are most often 0 (average percentage of zeros); see `Minimum`.

    Reference: Hu et al., Network trimming, 2016, equation 1. (DropNet's code counts zeros of a
      filter's mean, not of its map, as the paper of APoZ and this do.)
    """

    worth = staticmethod(lambda a: (a != 0).astype(jnp.float32))


@dataclass(frozen=True)
class RandomUnits:
    """Drop units at random; the seed decides the order."""

    seed: int

    def __post_init__(self) -> None:
        check_whole(0, seed=self.seed)

    def __call__(self, model: nnx.Module, shapes: Shapes) -> Arrays:
        key = jax.random.fold_in(jax.random.key(self.seed), APART)
        keys = jax.random.split(key, len(shapes))
        pairs = zip(shapes.items(), keys, strict=True)
        return {path: jax.random.uniform(key, shape) for (path, shape), key in pairs}


def _read(found: Arrays, path: str, shape: tuple[int, ...]) -> Array:
    """The activations of a weight's units, float32 [samples, ..., units]."""
    if path not in found:
        raise ValueError(
            f"{path} has no activations; available: {listed(found)}. Give those after the "
            "nonlinearity under the path of the weight that computes them, or do not put "
            "the weight under Held"
        )
    values = jnp.asarray(found[path], jnp.float32)
    places = values.ndim - len(shape)
    if places < 1 or values.shape[places:] != shape or not values.size:
        raise ValueError(
            f"{path}: the activations have shape {values.shape}; the last axes are the "
            f"units {shape}, after one or more of samples and places"
        )
    return values


@dataclass(frozen=True)
class activations:
    """Activations of layers: their outputs, put through a nonlinearity, as the model runs.

    The layers are modules with a `kernel` that the model calls once per pass. Compile it for speed:
    `nnx.jit(activations(nnx.relu, "fc1", "fc2"))`. Where this does not fit (an activation after a
    norm, scanned layers) write the function yourself.

    Args:
      nonlinearity: as the model applies it.
      *layers: paths of the layers, such as "fc1" or "layers/0".

    Example:
      >>> net = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.relu)
      >>> found = activations(nnx.relu, "layers/0")(net, jnp.ones((4, 2)))
      >>> {path: a.shape for path, a in found.items()}
      {'layers/0/kernel': (4, 3)}
    """

    nonlinearity: Callable[[Array], Array]
    layers: tuple[str, ...]

    def __init__(self, nonlinearity: Callable[[Array], Array], *layers: str):
        check_function(nonlinearity=nonlinearity)
        for layer in layers:
            check_is(str, "paths of layers, such as 'fc1'", layers=layer)
        object.__setattr__(self, "nonlinearity", nonlinearity)
        object.__setattr__(self, "layers", layers)

    def __call__(self, model: nnx.Module, batch: Any) -> dict[str, Array]:
        """By path of the kernel, [samples, places..., units].

        Raises:
          ValueError: no such layer, or one that is called twice or never.
        """
        copy, seen = nnx.clone(model), {path: [] for path in self.layers}
        layers = dict(walk_modules(copy))
        for path in seen:
            if path not in layers:
                raise ValueError(
                    f"{path!r} is not a layer of this model; give paths such as 'fc1', or write "
                    "the function of activations yourself"
                )
            watch_in_place(layers[path], lambda _, x, out, path=path: seen[path].append(out))
        copy(batch)
        for path, outputs in seen.items():
            if len(outputs) != 1:
                raise ValueError(
                    f"{path} was called {len(outputs)} times in a pass, expected once; write the "
                    "function of activations yourself"
                )
        return {f"{path}/kernel": self.nonlinearity(out[0]) for path, out in seen.items()}
