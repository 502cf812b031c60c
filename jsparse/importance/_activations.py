"""What flows through units: the inputs of the layers that read them, as the model runs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._pure import Forward, call, calling, evaluated
from jsparse._roles import multiplies_inputs
from jsparse._slots import Slot, slots
from jsparse._values import check_batches, check_function, check_is, each_batch
from jsparse._watch import watch_in_place
from jsparse.export._shrinking.groups import UnitAxis, UnitGroup
from jsparse.export._shrinking.uses import Use
from jsparse.importance._members import Joined


@dataclass(frozen=True)
class ActivationScore:
    """The mean over samples and places of a score of what layers read of each unit.

    Groups that are read only by layers whose inputs cannot be seen have no score.
    """

    batches: Iterable[Any] = field(repr=False)
    run: Forward = call
    joined: Joined = field(default_factory=Joined)
    worth: ClassVar[Callable[[jax.Array], jax.Array]]

    def __post_init__(self) -> None:
        check_batches(self.batches)
        check_function(run=self.run)
        check_is(Joined, "a Joined", joined=self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        model = evaluated(model)
        read = {m.path for group in groups for m in group.members if Use.READS in m.use}
        seen: dict[str, list[list[np.ndarray]]] = {}
        for slot in slots(model):
            if slot.path in read and _readable(slot):
                found = seen[slot.path] = []
                watch_in_place(slot.parent, _seeing(slot.path, found, type(self).worth))
        for batch in each_batch(self.batches):
            with calling("batches", batch):
                self.run(model, batch)
        scores = []
        for group in groups:
            reads = [m for m in group.members if Use.READS in m.use]
            means = [_mean(m, seen.get(m.path, []), group.width) for m in reads]
            scores.append(self.joined([one for one in means if one is not None], group.width))
        return scores


def _readable(slot: Slot) -> bool:
    """Whether the inputs of a layer lie along the axes of its weight."""
    grouped = getattr(slot.parent, "feature_group_count", 1) > 1
    return multiplies_inputs(slot.parent, slot.key) and not grouped


def _seeing(path: str, seen: list, worth: Callable[[jax.Array], jax.Array]) -> Callable:
    def see(layer: Any, inputs: Any, output: Any) -> None:
        if isinstance(inputs, jax.core.Tracer):
            raise ValueError(
                f"{path} runs inside a loop or a compiled function, where its inputs cannot be "
                "seen; use an importance of weights or gradients"
            )
        axes = layer.axis if isinstance(layer, nnx.LinearGeneral) else (-1,)
        axes = axes if isinstance(axes, tuple) else (axes,)
        values = worth(jnp.asarray(inputs, jnp.float32))
        along = [
            values.mean(axis=tuple(k for k in range(values.ndim) if k != axis % values.ndim))
            for axis in axes
        ]
        seen.append([np.asarray(one, np.float64) for one in along])

    return see


def _mean(member: UnitAxis, seen: list[list[np.ndarray]], width: int) -> np.ndarray | None:
    """Of the calls in which an axis of the input is as long as the member's: [units]."""
    each = []
    for found in seen:
        fits = found[member.axis : member.axis + 1] if len(found) > 1 else found
        each += [one for one in fits if len(one) == len(member.units)]
    if not each:
        return None
    along, there = np.mean(each, axis=0), member.units >= 0
    total = np.bincount(member.units[there], weights=along[there], minlength=width)
    return total / np.bincount(member.units[there], minlength=width)
