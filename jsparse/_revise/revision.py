"""The interface of a revision, and what several of them share."""

from numbers import Integral, Real
from typing import ClassVar, Protocol

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_rivalry
from jsparse._counting import count, portion
from jsparse._pattern import Role, Scope, Unit, WholeModel
from jsparse._topk import highest, rivals, winners
from jsparse.rules._rule import to_weights, unit_magnitude


class Revision(Protocol):
    """When the stored mask of one layer changes while training, and to what: pure functions.

    A revision is a frozen, keyword-only dataclass of numbers, as a rule is. A step counts the train
    steps done, this one included.

    Attributes:
      pauses: whether nothing is trained on a step that revises.
      clears: whether weights that leave or enter the mask become 0, with their moments.
      role: the meaning of the weight's axes.
    """

    pauses: ClassVar[bool]
    clears: ClassVar[bool]

    @property
    def role(self) -> Role:
        """What is known of the axes of the weight."""
        ...

    def due(self, step: Array) -> Array:
        """bool []: whether the mask changes after this step."""
        ...

    def trained(self, mask: Array, weight: Array) -> Array:
        """[...] as the weight: 1 where a weight is trained, 0 where it stands still."""
        ...

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """The new mask, [...] as the weight, 0 or 1, of its type.

        Args:
          mask: [...], the mask of this step.
          weight: [...], after this step.
          gradient: [...], of the loss for the dense weight.
          step: [], integer.
          key: [], of this layer and step.
        """
        ...


class ByUnit(Protocol):
    """A revision whose units compete within a scope."""

    @property
    def unit(self) -> Unit: ...

    @property
    def scope(self) -> Scope: ...

    @property
    def role(self) -> Role: ...


def check_competition(by: ByUnit) -> None:
    """Refuse scopes in which the units of one layer do not compete.

    Raises:
      TypeError: a unit or scope is a class.
      ValueError: the scope is `Each` or `WholeModel`.
    """
    name = type(by).__name__
    for given in (by.unit, by.scope):
        if isinstance(given, type):
            raise TypeError(f"{name} got the class {given.__name__}; give one: {given.__name__}()")
    check_rivalry(name, by.scope)
    if isinstance(by.scope, WholeModel):
        raise ValueError(
            f"{name} revises each layer by itself; use Whole(), PerOutput() or Groups(m)"
        )


class Exchange(ByUnit, Protocol):
    """A revision that exchanges a fraction of the units now and then."""

    @property
    def first(self) -> int: ...

    @property
    def every(self) -> int: ...

    @property
    def last(self) -> int: ...

    @property
    def fraction(self) -> float: ...


def check_steps(least: int = 1, **steps: int) -> None:
    """Refuse steps that are not whole numbers.

    Raises:
      ValueError: one is not, or is below the least.
    """
    for name, step in steps.items():
        if not isinstance(step, Integral) or isinstance(step, bool) or step < least:
            raise ValueError(f"{name} is a number of train steps, {least} or more; got {step!r}")


def check_exchange(by: Exchange) -> None:
    """Refuse numbers with which nothing would be exchanged.

    Raises:
      ValueError: steps or a fraction out of range, or units of a layer that do not compete.
    """
    check_steps(every=by.every, last=by.last)
    check_steps(0, first=by.first)
    if by.last < (by.first or by.every):
        raise ValueError(
            f"{type(by).__name__} got first={by.first}, every={by.every}, last={by.last}: no step "
            "would exchange anything; last is a step of the run, such as three quarters of all"
        )
    if not (isinstance(by.fraction, Real) and 0 < by.fraction <= 1):
        raise ValueError(
            f"fraction is the part of the kept units to exchange, in (0, 1]; got {by.fraction!r}"
        )
    check_competition(by)


def periodic(by: Exchange, step: Array) -> Array:
    """bool []: whether a step is `first` and so many times `every`, up to `last`."""
    return (step >= by.first) & (step <= by.last) & ((step - by.first) % by.every == 0)


def largest(by: ByUnit, weight: Array, density: float | Array) -> Array:
    """The units of largest magnitude within each group of the scope: bool, [grid of units]."""
    return winners(unit_magnitude(by, weight), density, by.scope, by.role)


def exchange(
    by: ByUnit, mask: Array, weight: Array, growth: Array, fraction: float | Array
) -> Array:
    """Drop the units of smallest magnitude, then grow as many of the highest growth score.

    1. Of the n kept units of each group, k = round(fraction * n) are dropped.
    2. Of all that are then not kept, the k of highest growth enter. One that was dropped may stay.

    Args:
      by: whose units, scope and role are meant.
      mask: [...], 0 or 1 by unit.
      weight: [...].
      growth: [grid of units], 0 or more.
      fraction: [], between 0 and 1.

    Returns:
      The new mask, [...]; each group keeps as many units as before.
    """
    on = unit_magnitude(by, mask) > 0
    shape, axes = rivals(on.shape, by.scope, by.role)
    on = on.reshape(shape)
    number = count(on, axes)
    left = number - portion(fraction, number)
    size = unit_magnitude(by, weight).reshape(shape)
    stay = highest(jnp.where(on, size, -1.0), left, axes)
    others = jnp.where(stay, -jnp.inf, growth.reshape(shape))  # growth may be infinite
    new = stay | highest(others, number - left, axes)
    return to_weights(by, new.reshape(growth.shape), mask)
