"""The groups of units of a model that are removed together, as a printable table.

Reference: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, has such groups from
rules for layers; here they come from the traced operations, and each was cut once to see whether
the smaller model still computes the same.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from jsparse._paths import listed, match
from jsparse._pure import by_position, calling, examples, settings
from jsparse._slots import slots
from jsparse._surgery import fold
from jsparse._untraced import outside_jit
from jsparse._values import check_function
from jsparse.export._shrinking.attributes import Mend, stock
from jsparse.export._shrinking.drawing import noted, write_groups
from jsparse.export._shrinking.graph import Node
from jsparse.export._shrinking.liveness import ENDS, SINGLE, Axis
from jsparse.export._shrinking.operations import is_closed
from jsparse.export._shrinking.shares import Family
from jsparse.export._shrinking.source import place
from jsparse.export._shrinking.stayed import reason_text
from jsparse.export._shrinking.units import Units
from jsparse.export._shrinking.uses import (
    NOTHING,
    UnitAxis,
    UnitGroup,
    Use,
    summed,
    uses,
    with_closers,
)
from jsparse.report._table import table

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, eq=False)
class UnitGroups:
    """The groups of a model: print them, iterate over them, or get one by its name or position.

    Attributes:
      groups: in the order in which the model reads their weights, then those that cannot shrink.
      order: paths of the weights, as the model reads them.
    """

    groups: tuple[UnitGroup, ...]
    order: tuple[str, ...]

    def __iter__(self) -> Iterator[UnitGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str | int) -> UnitGroup:
        if isinstance(name, int | np.integer) and -len(self) <= name < len(self):
            return self.groups[name]
        found = [group for group in self.groups if group.name == name]
        if not found:
            there = listed(g.name for g in self.groups)
            raise KeyError(f"no group {name!r}; there are {len(self)}: {there}")
        return found[0]

    def __str__(self) -> str:
        head = ("group", "units", "parameters", "weights that shrink with it")
        rows = [
            (
                group.name,
                str(group.width),
                f"{group.parameters:,}",
                "; ".join([_members(group), *noted(group)]),
            )
            for group in self.groups
        ]
        return table(head, rows)

    def page(self, out: str | Path = "groups.html") -> Path:
        """Write one HTML page with a picture: which layers make and read the units of each group.

        Args:
          out: the file.

        Returns:
          Its path.

        Raises:
          TypeError: out is not a path.
          IsADirectoryError: out is a folder.
          ImportError: Jinja2 is not installed.
        """
        return write_groups(self.groups, self.order, out)


def _members(group: UnitGroup) -> str:
    paths = dict.fromkeys(member.path for member in group.members)
    return listed([path for path in paths if path != group.name.rpartition(":")[0]], 4)


def chosen_groups(
    groups: UnitGroups, given: Sequence[tuple[str, Value]], name: str, verb: str
) -> dict[str, Value]:
    """What each group that can shrink is given, by name; the first pattern that matches wins.

    `name` is that of the argument, and `verb` what is done with the groups, for errors.
    """
    free = {group.name: group for group in groups if not group.held}
    if not free:
        raise ValueError(f"groups has none that can shrink, so there is nothing to {verb}")
    for pattern, _ in given:
        if not any(re.fullmatch(pattern, at) for one in free for at in (one, f"/{one}")):
            raise ValueError(
                f"{name}: {pattern!r} matches no group that can shrink, of which there are "
                f"{listed(free)}; it is a regular expression for the whole name, such as "
                "'.*/kernel:.*'"
            )
    return match(free, given)


@outside_jit
def groups(
    model: nnx.Module, *example_inputs: Any, mend: Mend = stock, **options: Any
) -> UnitGroups:
    """The groups of units of a model that must be removed together.

    Read from the traced computation, with no list of layers: the channels of a residual stream
    with all blocks that add to it, heads and the width of heads, the parts of a concatenation, the
    hidden units of a recurrent cell. A unit of each group was removed to see whether the smaller
    model computes the same operation by operation; `held` says which operation prevents a group
    from shrinking.

    Args:
      model: any NNX module, sparse or plain; not changed.
      *example_inputs: arguments of a call, as for `shrink`: arrays or shapes.
      mend: as for `shrink`.
      **options: arguments by name, as for `shrink`.

    Returns:
      The groups, in the order in which the model reads their weights, then those that cannot
      shrink.

    Example:
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> print(groups(model, (1, 4)))
      group              units  parameters  weights that shrink with it
      layers/0/kernel:1  8      64          layers/0/bias, layers/2/kernel
      layers/0/kernel:0  4      32          none; stays: it is an input of the model
      layers/2/kernel:1  3      27          layers/2/bias; stays: the model returns them
    """
    with settings(mend=mend):
        check_function(mend=mend)
    model, inputs = by_position(model, example_inputs, options)
    inputs, plain = examples(inputs), fold(model)
    with calling("example_inputs", inputs):
        units = Units(plain, inputs, mend)
    try_each(units)
    params = {slot.path for slot in slots(plain) if isinstance(slot.value, nnx.Param)}
    sums = summed(units.graph)
    found = [
        with_closers(units.graph, params, group, not sums.isdisjoint(units.families[n].axes))
        for n, group in described(units).items()
    ]
    read = [node.path for op in units.graph.all_ops for node in op.inputs if node.path]
    groups = sorted(found, key=lambda group: bool(group.held))
    return UnitGroups(tuple(groups), tuple(dict.fromkeys(read)))


def free(units: Units) -> list[int]:
    """The numbers of the families that nothing holds, as far as is known."""
    families = enumerate(units.families)
    return [n for n, family in families if family.held is None and len(family.units) > 1]


def try_each(units: Units) -> None:
    """Remove a unit or step of each family; hold those that this breaks or whose outputs differ."""
    while True:
        gone = {n: units.last(units.step(n))[n] for n in free(units)}
        if not gone or units.tried(gone):
            return


def described(units: Units) -> dict[int, UnitGroup]:
    """The groups by the number of the family, those that are not units of layers left out."""
    used = uses(units.graph)
    first: dict[str, int] = {}
    for n, op in enumerate(units.graph.all_ops):
        for node in op.inputs:
            if node.path:
                first.setdefault(node.path, n)
    found = [(n, _group(units, family, used, first)) for n, family in enumerate(units.families)]
    named = [(n, group) for n, group in found if group]
    several = _made(group for _, group in named if group.width > 1)
    named = [(n, g) for n, g in named if g.width > 1 or not _made([g]) <= several]
    named.sort(key=lambda pair: first.get(pair[1].members[0].path, 0))
    names: dict[str, int] = {}
    groups = {}
    for n, group in named:
        count = names[group.name] = names.get(group.name, 0) + 1
        name = group.name if count == 1 else f"{group.name}#{count}"
        groups[n] = dataclasses.replace(group, name=name)
    return groups


def _group(
    units: Units, family: Family, used: Mapping[Axis, Use], first: Mapping[str, int]
) -> UnitGroup | None:
    axes = [(node, axis) for node, axis in family.axes if node.path and node.shape[axis] > 1]
    axes.sort(key=lambda axis: first.get(axis[0].path, 0))
    members = tuple(
        UnitAxis(
            node.path,
            axis,
            own := units.on(family, (node, axis)),
            used.get((node, axis), NOTHING),
            int((own == 0).sum()) * _beside(node, axis, used),
        )
        for node, axis in axes
    )
    wide = any(member.use & (Use.MAKES | Use.READS) for member in members)
    if not members or (family.held and not wide and not _closed(family)):
        return None
    shapes = {node.path: node.shape for node in units.graph.variables}
    own = [m for m in members if Use.MAKES in m.use and len(shapes[m.path]) > 1]
    name = (own or members)[0]
    return UnitGroup(
        name=f"{name.path}:{name.axis}",
        width=len(family.units),
        members=members,
        parameters=_parameters(members, shapes),
        held=_why(family),
        means=", ".join(dict.fromkeys(place(op) for op in family.sums)),
    )


def _made(groups: Iterable[UnitGroup]) -> set[tuple[str, int, int]]:
    """Each position of each axis that makes units of some groups; if none does, of all axes."""
    found: set[tuple[str, int, int]] = set()
    for group in groups:
        for m in [m for m in group.members if Use.MAKES in m.use] or group.members:
            found.update((m.path, m.axis, n) for n in np.flatnonzero(m.units >= 0).tolist())
    return found


def _closed(family: Family) -> bool:
    """Whether what holds a family is not understood, and reads a weight of it."""
    op = family.held.op if family.held else None
    read = {node for node, _ in family.axes if node.path and len(node.shape) > 1}
    return op is not None and is_closed(op) and not read.isdisjoint(op.inputs)


def _beside(node: Node, axis: int, used: Mapping[Axis, Use]) -> int:
    """The length of the other axes of a weight that are used as this one is, together."""
    own = used.get((node, axis), NOTHING)
    same = [k for k in range(len(node.shape)) if k != axis and used.get((node, k)) == own]
    return math.prod(node.shape[k] for k in same) if own & (Use.MAKES | Use.READS) else 1


def _why(family: Family) -> str:
    """Why its units cannot be removed; empty if they can."""
    if family.held is None:
        return "" if len(family.units) > 1 else SINGLE
    if family.held.kind == ENDS and not family.held.text:
        return "it is an input of the model"
    return reason_text(family.held)


def _parameters(members: tuple[UnitAxis, ...], shapes: dict[str, tuple[int, ...]]) -> int:
    """How many entries of weights lie on the units."""
    left = {member.path: list(shapes[member.path]) for member in members}
    for member in members:
        left[member.path][member.axis] -= int((member.units >= 0).sum())
    return sum(math.prod(shapes[path]) - math.prod(rest) for path, rest in left.items())
