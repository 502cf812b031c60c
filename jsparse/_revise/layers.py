"""What one mask belongs to: a weight, or the weights of a group of coupled units, alike to use."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jsparse._revise.revision import Revision
from jsparse._sharding import beside, everywhere
from jsparse.rules._coupled import Span, root_mean_square

At = dict[int, Array]
"""bool by position of a weight in the flat tree, [...] like the weight."""


class Layer(NamedTuple):
    """A weight and its mask, by position in the flat tree; without a revision it is fixed."""

    path: str
    weight: int
    mask: int
    by: Revision | None

    @property
    def masks(self) -> tuple[int, ...]:
        """Where its masks are in the flat tree: a weight has one."""
        return (self.mask,)

    def mask_of(self, leaves: Sequence[Array]) -> Array:
        """The mask: [...] like the weight."""
        return leaves[self.mask]

    def jumps(self, jump: Array, leaves: Sequence[Array]) -> dict[int, Array]:
        """How the mask changes, by position."""
        return {self.mask: jump.astype(leaves[self.mask].dtype)}

    def seen(self, weight_at: Callable[[int], Array]) -> Array:
        """The weight: [...] like the mask."""
        return weight_at(self.weight)

    def growth(self, gradients: Sequence[Array]) -> Array:
        """The dense gradient, which the mask receives: [...] like the mask."""
        return gradients[self.mask]

    def hidden(self, leaves: Sequence[Array], gradients: Sequence[Array]) -> At:
        """The dense gradient where the weight has none because it is masked."""
        there = jnp.where(leaves[self.mask] > 0, 0.0, gradients[self.mask])
        return {self.weight: there.astype(gradients[self.weight].dtype)}

    def over(self, values: Array, leaves: Sequence[Array]) -> At:
        """Where values hold: bool, [...] like the mask."""
        return {self.weight: values}

    def closing(self, values: Array, leaves: Sequence[Array]) -> At:
        """The same, in the weights that are read as 0 where the mask is."""
        return self.over(values, leaves)


class CoupledLayer(NamedTuple):
    """A group of coupled units and their mask, by positions in the flat tree.

    Attributes:
      path: name of the group.
      spans: position of each weight, and where the units are in it; a weight may have several.
      masks: of the mask, [units], and of those with copies of it for each layer of a stack,
        [stack..., units].
      by: the revision, or None for a fixed mask.
    """

    path: str
    spans: tuple[tuple[int, Span], ...]
    masks: tuple[int, ...]
    by: Revision | None

    def mask_of(self, leaves: Sequence[Array]) -> Array:
        """The mask: [units]."""
        mask = leaves[self.masks[0]]
        return everywhere(mask[(0,) * (mask.ndim - 1)])

    def jumps(self, jump: Array, leaves: Sequence[Array]) -> dict[int, Array]:
        """How the masks change, by position."""
        found = {}
        for m in self.masks:
            each = jnp.broadcast_to(jump.astype(leaves[m].dtype), leaves[m].shape)
            found[m] = beside(each, leaves[m])
        return found

    def seen(self, weight_at: Callable[[int], Array]) -> Array:
        """The root mean square of each unit: [units]."""
        return root_mean_square((span, weight_at(w)) for w, span in self.spans if span.own)

    def growth(self, gradients: Sequence[Array]) -> Array:
        """That of the gradients in the weights that close units, which are dense: [units]."""
        return root_mean_square((span, gradients[w]) for w, span in self.spans if span.closes)

    def hidden(self, leaves: Sequence[Array], gradients: Sequence[Array]) -> At:
        """Nothing: the weights receive the dense gradients themselves."""
        return {}

    def over(self, values: Array, leaves: Sequence[Array]) -> At:
        """Where values hold for all units that an entry belongs to."""
        return intersected({w: span.spread(values, leaves[w]) > 0} for w, span in self.spans)

    def closing(self, values: Array, leaves: Sequence[Array]) -> At:
        """The same, in the weights that are read as 0 where units are closed."""
        spans = [(w, span) for w, span in self.spans if span.closes]
        return intersected({w: span.spread(values, leaves[w]) > 0} for w, span in spans)


def intersected(found: Iterable[At]) -> At:
    """Where all of several hold."""
    joint: At = {}
    for one in found:
        for weight, values in one.items():
            joint[weight] = joint[weight] & values if weight in joint else values
    return joint


def zero_outside(where: At, leaves: Sequence[Array]) -> list[Array]:
    """The leaves of a tree, 0 where these do not hold."""
    found = list(leaves)
    for n, values in where.items():
        found[n] = jnp.where(values, found[n], 0.0).astype(found[n].dtype)
    return found
