"""Coupled units: a `CoupledUnits` for each group, a `CoupledSparse` for each of its weights."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._sparse import Sparse
from jsparse.rules._coupled import Follows, Span, stacked_final
from jsparse.rules._rule import State


class CoupledUnits(Sparse):
    """The units of a group, and the rule that closes some: shared by all its weights.

    There is one, plus one for each depth of stacked weights, with the same numbers for every layer:
    `nnx.scan` passes each layer its own.

    Args:
      norms: the root mean square of each unit over all of its weights, [stack..., units].
      rule: of the group, with unit `Coupled()`, and a role with the number of stacked axes.
      key: for rules with a random initial state.
      name: of the group.
      entries: of a unit, in all of its weights.
    """

    def __init__(self, norms: Any, rule: Any, *, key: Array, name: str, entries: int):
        super().__init__(norms, rule, key=key)
        self.name = name
        self.entries = entries

    def one(self, value: Array) -> Array:
        """What all layers of the stack have: [stack..., n] -> [n]."""
        return value[(0,) * self._stack]

    def each(self, value: Array) -> Array:
        """The same for each layer: [n] -> [stack..., n]."""
        return jnp.broadcast_to(value, self.weight.shape[: self._stack] + value.shape)

    def follow(self, other: "CoupledUnits") -> None:
        """Take the state of the same group for weights of another depth."""
        self.set_state({name: self.each(other.one(value)) for name, value in other.state.items()})


def shared_value(part: Sparse, value: Array) -> Array:
    """A value of a Sparse, [...]; of a group of coupled units that of all layers of a stack."""
    return part.one(value) if isinstance(part, CoupledUnits) else value


class CoupledSparse(Sparse):
    """A weight whose units are those of groups, in the order of the rule's spans, masked by them.

    The Param is kept, not copied, as by `Sparse`.
    """

    def __init__(self, weight: nnx.Param, rule: Follows, groups: Sequence[CoupledUnits]):
        self.weight = weight
        self.rule = rule
        self.layer_ndim = weight.ndim - rule.role.stack
        self.deterministic = False
        self.reparameterized = False
        self.state_names = ()
        for n, group in enumerate(groups):
            setattr(self, f"units{n}", group)

    @property
    def groups(self) -> dict[str, CoupledUnits]:
        """The groups of the spans, by the attribute that holds them."""
        return {f"units{n}": getattr(self, f"units{n}") for n in range(len(self.rule.spans))}

    @property
    def pairs(self) -> list[tuple[Span, CoupledUnits]]:
        """Each span with its group."""
        return list(zip(self.rule.spans, self.groups.values(), strict=True))

    def read_final(self) -> Array:
        """The weight without sampling, with zeros for all that belongs to dropped units: [...]."""
        return stacked_final(self.rule, self._stack, self.weight[...], self._final)

    @property
    def _seen(self) -> Any:
        return self._of_groups(lambda group: group._seen)

    @property
    def _final(self) -> Any:
        return self._of_groups(lambda group: group._final)

    def _of_groups(self, state: Callable[[CoupledUnits], State]) -> dict[str, State]:
        return {
            str(n): state(group) | {"norms": group.weight[...]}
            for n, group in enumerate(self.groups.values())
        }
