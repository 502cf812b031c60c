"""The events of a train step, and the numbers that several weights share."""

from collections import Counter

from flax import nnx
from jax import Array

from jsparse._coupled import CoupledSparse, CoupledUnits, shared_value
from jsparse._score import root
from jsparse._sharding import beside
from jsparse._slots import coupled_units, ruled_parts, sparse_parts
from jsparse._variables import write
from jsparse.rules._coupled import mean_square
from jsparse.rules._rule import share_cuts


def advance_in_place(model: nnx.Module) -> None:
    """`jsparse.advance`, written into the model's own variables."""
    share_norms_in_place(model)
    for part in ruled_parts(model).values():
        part.set_state(part.advanced())
    _share_cuts(model)
    _share_stacks(model)


def share_cuts_in_place(model: nnx.Module) -> None:
    """Recompute what layers share, after weights were set or layers were added."""
    share_norms_in_place(model)
    _share_cuts(model)
    _share_stacks(model)


def share_norms_in_place(model: nnx.Module) -> None:
    """Recompute the norms of coupled units from their weights.

    Raises:
      ValueError: some of these weights are not in the model.
    """
    totals: dict[str, Array] = {}
    entries: Counter[str] = Counter()
    for part in sparse_parts(model).values():
        if not isinstance(part, CoupledSparse):
            continue
        for span, group in part.pairs:
            if span.own:
                own = mean_square(span, part.weight[...])
                totals[group.name] = totals[group.name] + own if group.name in totals else own
                entries[group.name] += span.own
    for group in coupled_units(model).values():
        if entries[group.name] != group.entries:
            raise ValueError(
                f"the units of the group {group.name} have {group.entries} entries each, and the "
                f"model has {entries[group.name]} of them: give the whole model that `couple` "
                "returned, with no weight given another rule since"
            )
        norms = root(totals[group.name]).astype(group.weight.dtype)
        write(group.weight, beside(group.each(norms), group.weight[...]))


def _share_stacks(model: nnx.Module) -> None:
    """Give each layer of a stack the state of its groups."""
    first: dict[str, CoupledUnits] = {}
    for group in coupled_units(model).values():
        if group is not first.setdefault(group.name, group):
            group.follow(first[group.name])


def _share_cuts(model: nnx.Module) -> None:
    parts = [part for part in ruled_parts(model).values() if "cut" in part.state_names]
    shared = share_cuts(
        [part.rule for part in parts],
        [{name: shared_value(part, value) for name, value in part.state.items()} for part in parts],
        [shared_value(part, part.score()) for part in parts],
    )
    for part, state in zip(parts, shared, strict=True):
        all_layers = part.each if isinstance(part, CoupledUnits) else lambda value: value
        part.set_state({name: all_layers(value) for name, value in state.items()})
