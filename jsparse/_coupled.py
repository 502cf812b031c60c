"""Models with coupled units: one `Units` for each group, a `Member` for each of its weights."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax import Array

from jsparse._sparse import Sparse
from jsparse.rules._coupled import Follows
from jsparse.rules._rule import State, applied, settled


class Units(Sparse):
    """The units of a group, and the rule that closes some: there once, shared by all its weights.

    Args:
      norms: the root mean square of each unit over all of its weights, [units].
      rule: of the group, with unit `Coupled()`.
      key: for rules with a random initial state.
      name: of the group.
      entries: how many entries a unit has, in all of its weights.
    """

    def __init__(self, norms: Any, rule: Any, *, key: Array, name: str, entries: int):
        super().__init__(norms, rule, key=key)
        self.name = name
        self.entries = entries


class Member(Sparse):
    """A weight whose units are those of groups: a `Sparse` that reads as they say.

    Args:
      weight: the Param to replace; it is kept, not copied.
      rule: where the units are.
      groups: of the rule's spans, in their order.
    """

    def __init__(self, weight: nnx.Param, rule: Follows, groups: Sequence[Units]):
        self.weight = weight
        self.rule = rule
        self.layer_ndim = weight.ndim
        self.deterministic = False
        self.reparameterised = False
        self.state_names = ()
        for n, group in enumerate(groups):
            setattr(self, f"units{n}", group)

    @property
    def groups(self) -> dict[str, Units]:
        """The groups of the spans, by the attribute that holds them."""
        return {f"units{n}": getattr(self, f"units{n}") for n in range(len(self.rule.spans))}

    def read(self) -> Array:
        """The weight as the layer reads it, with gates where it closes units: [...]."""
        return applied(self.rule, 0, self.weight[...], self._seen)

    def read_mask(self) -> Array:
        """The mask, [...] like the weight: 1 where none of its units is dropped."""
        return self.rule.mask(self.weight[...], self._seen)

    def read_final(self) -> Array:
        """The weight without sampling, with zeros for all that belongs to dropped units: [...]."""
        return self.rule.final(self.weight[...], self._of_groups(final=True))

    def read_final_mask(self) -> Array:
        """The mask without sampling: [...] like the weight."""
        return self.rule.mask(self.weight[...], self._of_groups(final=True))

    @property
    def _seen(self) -> Any:
        return self._of_groups(final=False)

    def _of_groups(self, *, final: bool) -> dict[str, State]:
        return {
            str(n): (settled(group.state) if final else group._seen) | {"norms": group.weight[...]}
            for n, group in enumerate(self.groups.values())
        }
