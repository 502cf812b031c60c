"""The interface of a revision, and code that several revisions share."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_rivalry
from jsparse._counting import count, rounded_fraction
from jsparse._pattern import Role, WholeModel
from jsparse._topk import highest, rivals, winners
from jsparse._values import check_in, is_whole, shown
from jsparse.rules._rule import Scoped, check_structure, to_weights, unit_magnitude


class Revision(Protocol):
    """When and how the stored mask of one layer changes during training: pure functions.

    Like a rule, a revision is a frozen, keyword-only dataclass of numbers. A step is the number of
    train steps so far, including the current one.

    Attributes:
      pauses: whether training pauses on a step that revises.
      clears: whether weights that are dropped or grown, and their moments, are set to 0.
    """

    pauses: ClassVar[bool]
    clears: ClassVar[bool]

    @property
    def role(self) -> Role:
        """The meaning of the weight's axes."""
        ...

    def due(self, step: Array) -> Array:
        """bool []: whether the mask changes after this step."""
        ...

    def trained(self, mask: Array, weight: Array) -> Array:
        """[...] like the weight: 1 where a weight is trained, 0 where it is frozen."""
        ...

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """The new mask, 0 or 1: [...] like the weight, and with its type.

        Args:
          mask: [...], the mask during this step.
          weight: [...], the weight after this step.
          gradient: [...], the gradient of the loss for the dense weight.
          step: [], integer.
          key: [], for this layer and step.
        """
        ...


class MovesLinks(Revision, Scoped, Protocol):
    """A revision that can also move the links of packed layers, which have no mask.

    There the places of a layer form a vector: its links, and places that may become links.

    Attributes:
      by_gradient: whether places are grown by their gradients, and not at random.
      grown: the largest fraction of the links that is grown at once.
    """

    by_gradient: ClassVar[bool]

    @property
    def grown(self) -> float: ...

    def moved(self, mask: Array, weight: Array, growth: Array, *, step: Array, size: int) -> Array:
        """The new mask, 0 or 1: [n] like the old one, and with its type.

        Args:
          mask: [n], 1 where a link is.
          weight: [n], 0 where none is.
          growth: float32 [n], 0 or more; -1 for links that can only be kept, -inf for entries that
            are not places.
          step: [], integer.
          size: places of the whole matrix, of which these are some.
        """
        ...


class Periodic(Protocol):
    """A revision at `first`, every `every` steps after it, and not after `last`."""

    @property
    def first(self) -> int: ...

    @property
    def every(self) -> int: ...

    @property
    def last(self) -> int: ...


class Exchanges(Periodic, Scoped, Protocol):
    """A periodic revision that exchanges a fraction of the units."""

    @property
    def fraction(self) -> float: ...


Revisions = tuple[str, Revision] | Sequence[tuple[str, Revision]] | Mapping[str, Revision]
"""Pairs of a pattern and a revision: one, several, or a dict of them."""


def check_competition(by: Scoped) -> None:
    """Refuse scopes in which the units of one layer do not compete."""
    name = type(by).__name__
    check_structure(by)
    check_rivalry(name, by.scope)
    if isinstance(by.scope, WholeModel):
        raise ValueError(
            f"{name} revises each layer by itself; use Whole(), PerOutput() or Groups(m)"
        )


def check_steps(least: int = 1, **steps: int) -> None:
    """Refuse numbers of steps that are not whole numbers."""
    for name, step in steps.items():
        if not is_whole(step) or step < least:
            raise ValueError(
                f"{name} is a whole number of train steps, {least} or more; got {shown(step)}"
            )


def check_periodic(by: Periodic, what: str) -> None:
    """Refuse settings `first`, `every` and `last` under which `what` would never happen."""
    check_steps(every=by.every, last=by.last)
    check_steps(0, first=by.first)
    if by.last < (by.first or by.every):
        raise ValueError(
            f"{type(by).__name__} got first={by.first}, every={by.every}, last={by.last}: no step "
            f"would {what}; last is a step of the run, for example at three quarters"
        )


def check_exchange(by: Exchanges) -> None:
    """Refuse settings under which nothing would be exchanged."""
    check_periodic(by, "exchange anything")
    check_in("(0, 1]", fraction=by.fraction)
    check_competition(by)


def periodic(by: Periodic, step: Array) -> Array:
    """bool []: whether a step is `first` plus a multiple of `every`, up to `last`."""
    return (step >= by.first) & (step <= by.last) & ((step - by.first) % by.every == 0)


def only_kept(by: Revision, mask: Array, weight: Array) -> Array:
    """[...], the mask: what is kept is trained, and nothing else."""
    return mask


def largest(by: Scoped, weight: Array, density: float | Array) -> Array:
    """The units of largest magnitude within each group of the scope: bool, [grid of units]."""
    return winners(unit_magnitude(by, weight), density, by.scope, by.role)


def exchange(
    by: Scoped,
    mask: Array,
    weight: Array,
    growth: Array,
    fraction: float | Array,
    apart: Sequence[Array] = (),
) -> Array:
    """Drop the units of smallest magnitude, then grow as many of the highest growth score.

    1. Of the n kept units of each group, k = round(fraction * n) are dropped.
    2. Of all units that are then not kept, the k with the highest growth are grown. These may
       include units that were just dropped.

    Each group of the scope keeps as many units as before.

    Args:
      by: the revision, for its unit, scope and role.
      mask: [...], 0 or 1, equal within each unit; so is the result.
      weight: [...].
      growth: [grid of units], 0 or more; NaN, as of a gradient that is not finite, comes last.
      fraction: [], between 0 and 1.
      apart: disjoint sets of units, bool [grid of units] each. If there are any, step 1 is applied
        to each set separately, and kept units outside all of them are dropped.
    """
    on = unit_magnitude(by, mask) > 0
    shape, axes = rivals(on.shape, by.scope, by.role)
    on = on.reshape(shape)
    number = jnp.expand_dims(count(on, axes), axes)
    free, stay = number, jnp.zeros_like(on)
    size = unit_magnitude(by, weight).reshape(shape)
    for own in [on & units.reshape(shape) for units in apart] or [on]:
        among = jnp.expand_dims(count(own, axes), axes)
        left = among - rounded_fraction(fraction, among)
        stay |= highest(jnp.where(own, size, -1.0), left, axes)
        free -= left
    growth = jnp.where(jnp.isnan(growth), -1.0, growth)  # before units that stay; may be infinite
    others = jnp.where(stay, -jnp.inf, growth.reshape(shape))
    new = stay | highest(others, free, axes)
    return to_weights(by, new.reshape(growth.shape), mask)
