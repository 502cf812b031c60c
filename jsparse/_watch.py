"""Layers that report what flows through them as the model runs."""

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx

See = Callable[[Any, Any, Any], None]
"""(layer, its first input, its output), after each call of the layer."""


def watch_in_place(layer: nnx.Module, see: See) -> None:
    """Make a layer report each of its calls; everything else, including its class's name, stays.

    If the layer is already watched, only the new `see` is called. Copies of the layer are watched
    too, and `see` receives the copy.

    Example:
      >>> import jax.numpy as jnp
      >>> layer, seen = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), []
      >>> watch_in_place(layer, lambda layer, x, out: seen.append((x.shape, out.shape)))
      >>> _ = layer(jnp.ones((4, 2)))
      >>> seen
      [((4, 2), (4, 3))]
    """
    setattr(layer, "see", see)  # noqa: B010
    object.__setattr__(layer, "__class__", _watched(type(layer)))


@functools.cache
def _watched(kind: type) -> type:
    """A class of layers that call `see`; made once, as jax caches facts about each class."""
    if hasattr(kind, "_watches"):
        return kind

    def call(self: Any, *args: Any, **named: Any) -> Any:
        output = kind.__call__(self, *args, **named)  # type: ignore[operator]
        self.see(self, args[0] if args else next(iter(named.values())), output)
        return output

    return type(kind.__name__, (kind,), {"__call__": call, "_watches": True})
