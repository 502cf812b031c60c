"""The events of a train step, and the numbers that several weights share."""

from collections import defaultdict
from collections.abc import Iterable

from flax import nnx
from jax import Array

from jsparse._coupled import CoupledSparse, CoupledUnits, shared_value
from jsparse._sharding import beside
from jsparse._slots import coupled_units, ruled_parts, sparse_parts
from jsparse._sparse import Sparse
from jsparse._variables import write
from jsparse.rules._coupled import Span, root_mean_square
from jsparse.rules._rule import share_cuts


def advance_in_place(model: nnx.Module) -> None:
    """`jsparse.advance`, written into the model's own variables."""
    share_norms_in_place(model)
    parts = ruled_parts(model).values()
    for part in parts:
        part.set_state(part.advanced())
    _share(parts, coupled_units(model).values())


def share_cuts_in_place(model: nnx.Module) -> None:
    """Recompute what layers share, after weights were set or layers were added."""
    share_norms_in_place(model)
    _share(ruled_parts(model).values(), coupled_units(model).values())


def share_norms_in_place(model: nnx.Module) -> None:
    """Recompute the norms of coupled units from their weights, all of which must be there."""
    counted: dict[str, list[tuple[Span, Array]]] = defaultdict(list)
    for part in sparse_parts(model).values():
        for span, group in part.pairs if isinstance(part, CoupledSparse) else ():
            if span.own:
                counted[group.name].append((span, part.weight[...]))
    norms = {name: root_mean_square(arrays) for name, arrays in counted.items()}
    for group in coupled_units(model).values():
        entries = sum(span.own for span, _ in counted[group.name])
        if entries != group.entries:
            raise ValueError(
                f"the units of the group {group.name} have {group.entries} entries each, and the "
                f"model has {entries} of them: give the whole model that `couple` returned, with "
                "no weight given another rule since"
            )
        here = norms[group.name].astype(group.weight.dtype)
        write(group.weight, beside(group.each(here), group.weight[...]))


def _share(ruled: Iterable[Sparse], groups: Iterable[CoupledUnits]) -> None:
    """Recompute the cuts of the model, and give each layer of a stack the state of its groups."""
    parts = [part for part in ruled if "cut" in part.state_names]
    shared = share_cuts(
        [part.rule for part in parts],
        [{name: shared_value(part, value) for name, value in part.state.items()} for part in parts],
        [shared_value(part, part.score()) for part in parts],
    )
    for part, state in zip(parts, shared, strict=True):
        all_layers = part.each if isinstance(part, CoupledUnits) else lambda value: value
        part.set_state({name: all_layers(value) for name, value in state.items()})
    first: dict[str, CoupledUnits] = {}
    for group in groups:
        if group is not first.setdefault(group.name, group):
            group.follow(first[group.name])
