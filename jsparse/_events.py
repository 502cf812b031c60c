"""The events of a train step, and the numbers that several weights share."""

from collections import Counter

from flax import nnx
from jax import Array

from jsparse._coupled import Member, Units
from jsparse._score import root
from jsparse._slots import ruled_parts, sparse_parts
from jsparse._variables import write
from jsparse.rules._coupled import mean_square
from jsparse.rules._shared_cut import share_cuts


def advance_in_place(model: nnx.Module) -> None:
    """`jsparse.advance`, written into the model's own variables."""
    share_norms_in_place(model)
    for part in ruled_parts(model).values():
        part.set_state(part.advanced())
    _share_cuts(model)


def share_cuts_in_place(model: nnx.Module) -> None:
    """Recompute what layers share, after weights were set or layers were added."""
    share_norms_in_place(model)
    _share_cuts(model)


def share_norms_in_place(model: nnx.Module) -> None:
    """Take the norms of coupled units anew from their weights.

    Raises:
      ValueError: some of these weights are not in the model.
    """
    totals: dict[int, Array] = {}
    groups: dict[int, Units] = {}
    entries: Counter[int] = Counter()
    for part in sparse_parts(model).values():
        if not isinstance(part, Member):
            continue
        for span, group in zip(part.rule.spans, part.groups.values(), strict=True):
            one = id(group)
            groups[one] = group
            if span.own:
                own = mean_square(span, part.weight[...])
                totals[one] = totals[one] + own if one in totals else own
                entries[one] += span.own
    for one, group in groups.items():
        if entries[one] != group.entries:
            raise ValueError(
                f"the units of the group {group.name} have {group.entries} entries each, and the "
                f"model has {entries[one]} of them: give the whole model that `couple` returned, "
                "none of whose weights has got another rule since"
            )
        write(group.weight, root(totals[one]).astype(group.weight.dtype))


def _share_cuts(model: nnx.Module) -> None:
    parts = [part for part in ruled_parts(model).values() if "cut" in part.state_names]
    shared = share_cuts(
        [part.rule for part in parts],
        [part.state for part in parts],
        [part.score() for part in parts],
    )
    for part, state in zip(parts, shared, strict=True):
        part.set_state(state)
