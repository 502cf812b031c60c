"""Units made by several weights together, and a rule for one of those weights.

1. A group of units (`jsparse.groups`) has one rule for all of its weights. The rule sees a vector,
   the root mean square of each unit over all of them, and treats its entries like single weights;
   its state is stored once.
2. In some of the weights, enough for the rest of the model, closed units are 0: in those that read
   them, or else in those that make them. With a gate on both, neither would get a gradient. The
   others are masked when the model is folded.
3. The root mean square is recomputed after each train step. In the backward pass of a weight it
   depends on that weight, through its part of the sum.
4. A revision sees the same vector, the mask of its units, and the root mean square of the dense
   gradient of each over the weights that are gated.

Numbers: tests/prune/test_couple.py has the values and gradients in NumPy; no figure is published.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse._pattern import Role
from jsparse._score import root, squares
from jsparse._sharding import beside, everywhere
from jsparse._step import known_norm, masked, straight_through
from jsparse.rules._rule import Rule, State, no_cost, unchanged
from jsparse.rules._stacked import compiled_as_one

NEEDED = (
    "Group() is a unit of several weights, which one weight alone does not show: call "
    "jsparse.couple(model, jsparse.groups(model, x), (pattern, rule)) with patterns for names of "
    "groups. A revision has it for groups under Held(), and jsparse.optim.proximal has "
    "jsparse.prune.group_lasso"
)
VECTOR = Role(inputs=())
"""Of the vector that represents the units of a group."""


@dataclass(frozen=True)
class Group:
    """A unit of `jsparse.groups`, in all weights that it spans.

    For rules given to `couple`, and for revisions of groups that are under `Held` there.
    """

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        raise ValueError(NEEDED)


@dataclass(frozen=True)
class Coupled:
    """What `couple` substitutes for Group(): an entry of the vector, which represents a unit."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return (1,) * len(shape)


class Gating(Rule, Protocol):
    """A rule for groups.

    `passes` is a class variable, whether gradients pass straight through its gates; default False.
    """

    def gates(self, weight: Array, state: State) -> Array:
        """What units are multiplied by: the vector [units], its state -> [units], 0 if closed."""
        ...


@dataclass(frozen=True)
class Span:
    """Where the units of a group are in a weight.

    Attributes:
      axis: of the weight, counted from the last, as those of stacked layers come first.
      units: the number of the unit at each position of the axis, -1 for none; () if they are all
        there in order.
      width: how many units there are.
      entries: how many entries a unit has, in all weights.
      own: how many of them are in this one; 0 if units differ in that: then it does not count.
      closes: whether the weight has the gates.
      rule: of the group.
    """

    axis: int
    units: tuple[int, ...]
    width: int
    entries: int
    own: int
    closes: bool
    rule: Gating

    def spread(self, values: Array, weight: Array) -> Array:
        """Give each entry the value of its unit, 1 to others: [units] -> [...] like the weight."""
        values = everywhere(values)
        if self.units:
            at = np.asarray(self.units)
            values = jnp.where(at < 0, jnp.ones((), values.dtype), values[np.maximum(at, 0)])
        shape = [1] * weight.ndim
        shape[self.axis] = -1
        all_entries = jnp.broadcast_to(values.reshape(shape).astype(weight.dtype), weight.shape)
        return beside(all_entries, weight)


def mean_square(span: Span, weight: Array) -> Array:
    """What a weight, of a layer or a stack, adds to the mean square of each unit: [units]."""
    axis = span.axis % weight.ndim
    own = everywhere(squares(weight).sum(axis=tuple(k for k in range(weight.ndim) if k != axis)))
    if span.units:
        at = np.asarray(span.units)
        there = np.flatnonzero(at >= 0)
        own = jnp.zeros(span.width, own.dtype).at[at[there]].add(own[there])
    return own / span.entries


class Joint(NamedTuple):
    """A group whose mask a revision may change: by path of each weight, where its units are.

    A weight may have several spans.
    """

    name: str
    spans: tuple[tuple[str, Span], ...]


def root_mean_square(arrays: Iterable[tuple[Span, Array]]) -> Array:
    """Of each unit over its entries in these weights, or in arrays like them: [units]."""
    first, *rest = (mean_square(span, array) for span, array in arrays)
    return root(sum(rest, first))


@dataclass(frozen=True)
class Follows:
    """The rule of a weight whose units are those of groups; `couple` makes it.

    Its state is that of each group under the number of the span, with the vector as "norms".
    """

    spans: tuple[Span, ...]
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ()

    def init(self, weight: Array, key: Array) -> State:
        """None of its own."""
        return {}

    def mask(self, weight: Array, state: Mapping[str, State]) -> Array:
        """[...] like the weight: 1 where none of its units is dropped."""
        mask = jnp.ones_like(weight)
        for n, span in enumerate(self.spans):
            mask = mask * span.spread(span.rule.mask(*_taken(state, n)), weight)
        return mask

    def apply(self, weight: Array, state: Mapping[str, State]) -> Array:
        """[...], the weight with its gates."""
        for n, span in enumerate(self.spans):
            if span.closes:
                norms, own = _taken(state, n)
                norms = known_norm(norms, weight, partial(mean_square, span))
                gates = span.spread(span.rule.gates(norms, own), weight)
                passes = getattr(span.rule, "passes", False)
                weight = (straight_through if passes else masked)(weight, gates)
        return weight

    def final(self, weight: Array, state: Mapping[str, State]) -> Array:
        """[...], the weight with its gates, and zeros for whatever belongs to dropped units."""
        return masked(self.apply(weight, state), self.mask(weight, state))

    cost = no_cost
    advance = unchanged


stacked_final = compiled_as_one(lambda rule: rule.final)


def rule_name(rule: Rule) -> str:
    """The class of a rule; for a weight of coupled units, of those of its groups."""
    if not isinstance(rule, Follows):
        return type(rule).__name__
    return "coupled " + ", ".join(dict.fromkeys(type(span.rule).__name__ for span in rule.spans))


def _taken(state: Mapping[str, State], n: int) -> tuple[Array, State]:
    """The vector of a span, and the state of its group."""
    own = state[str(n)]
    return own["norms"], {name: value for name, value in own.items() if name != "norms"}
