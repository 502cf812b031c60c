"""What can be removed from a model, found in rounds: see `shrink`."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jsparse.export._shrinking.attributes import (
    Mend,
    head_dim,
    heads,
    mend_in_place,
    merged,
    stored_as,
)
from jsparse.export._shrinking.blame import Groups, at_error, removed_near
from jsparse.export._shrinking.constants import Knowledge, know
from jsparse.export._shrinking.contractions import tie_product
from jsparse.export._shrinking.couplings import pin_ends, tie
from jsparse.export._shrinking.cut import Cut, cut_in_place
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.guessing import Guesses, tell_of_guesses
from jsparse.export._shrinking.liveness import (
    ENDS,
    NEEDS_WHOLE,
    WHOLE,
    Axis,
    Reason,
    Removal,
)
from jsparse.export._shrinking.marks import marked
from jsparse.export._shrinking.operations import PRODUCTS
from jsparse.export._shrinking.record import Record
from jsparse.export._shrinking.rescale import Compared, Made
from jsparse.export._shrinking.signs import neutral, not_negative
from jsparse.export._shrinking.sinks import foldables, reads_of, sinks, taken_up
from jsparse.export._shrinking.stayed import explain, hidden_weights, partly_dead
from jsparse.export._shrinking.tracing import trace
from jsparse.export._shrinking.verify import Fault, Numbers, faults

ROUNDS = 8  # of tracing a smaller model; each settles every fault that it shows


class Cutting(NamedTuple):
    """The changes to a model.

    Attributes:
      cuts: by path of the variable.
      add: to a bias before it is cut, by path: [...] as it.
      groups: how many remain of grouped convolutions, by path of the kernel, and of features of
        group normalizations without weights, by path.
    """

    cuts: dict[str, Cut]
    add: dict[str, np.ndarray]
    groups: dict[str, int]


class Shrunk(NamedTuple):
    """What is removed, the smaller model, what it computes, and its record."""

    removal: Removal
    small: Any
    graph: Graph
    record: Record


class Plan:
    """A model traced once, and what can be removed from it.

    Args:
      model: without rules.
      inputs: of a call.
      mend: see `shrink`.
      rigid: paths of biases that absorb no constant.
      alive: paths of weights whose zeros do not count.

    Attributes:
      fixed: the path, an axis that is kept whole, and why.
      droppable: positions of the only summed axis of a product that are removable with whatever
        they give, [n].
    """

    def __init__(
        self,
        model: nnx.Module,
        inputs: tuple,
        mend: Mend,
        rigid: Iterable[str] = (),
        alive: frozenset[str] = frozenset(),
    ):
        self.model, self.inputs, self.mend, self.alive = model, inputs, mend, alive
        self.graph = trace(model, inputs)
        found = sinks(self.graph).items()
        self.sinks = {op: sink for op, sink in found if sink.bias.path not in rigid}
        self._learn(alive)
        self.fixed = [(path, axis, head_dim(path)) for path, axis in chain(*heads(model))]
        self._next_to: dict[Node, list[Op]] = {}
        for op in self.graph.all_ops:
            for node in op.nodes:
                self._next_to.setdefault(node, []).append(op)
        self.droppable: Mapping[Op, np.ndarray] = {}
        self._guesses = Guesses(model, inputs, self.graph)
        self._not_negative = not_negative(self.graph)

    def _learn(self, alive: frozenset[str]) -> None:
        self.knowledge: Knowledge = know(self.graph, dict.fromkeys(alive))
        self.foldable = foldables(self.graph, self.sinks, self.knowledge)

    def zeros(self, cuts: Mapping[str, Cut]) -> dict[str, str]:
        """What is removed only because a weight is all zeros, by path of that weight."""
        weights = [n for n in self.graph.variables if n.path in cuts and len(n.shape) > 1]
        found = [n.path for n in weights if n.value is not None and not n.value.any()]
        if not found:
            return {}
        other = copy.copy(self)
        other._learn(self.alive.union(found))
        less = other.cutting(other.removal()).cuts  # if they counted as alive
        return {
            path: f"all values are 0, so {cuts[path].left} is left of {cuts[path].shape}; "
            f"keep={path!r} counts it as alive"
            for path in found
            if cuts[path] != less.get(path)
        }

    def removal(self) -> Removal:
        """The largest removable set."""
        removal = Removal(self.graph)
        pin_ends(self.graph, self.fixed, removal)
        self._settle(removal, self.graph.all_ops)
        return removal

    def _settle(self, removal: Removal, ops: Iterable[Op]) -> None:
        self._spread(removal, ops)
        for node in reversed(self.graph.nodes()):  # readers first, as they decide what is needed
            for axis in range(len(node.shape)):
                if node.shape[axis] and removal.removed(node, axis).all():
                    removal.because(Reason(ENDS))  # an axis keeps at least one position
                    removal.narrow(node, axis, np.arange(node.shape[axis]) > 0)
                    self._spread(removal, self._around(removal))

    def _spread(self, removal: Removal, ops: Iterable[Op]) -> None:
        """Apply operations until nothing changes: last ones first, as they decide what counts."""
        order = self.graph.order
        waiting = {order[op]: op for op in ops}
        while waiting:
            for turn in (sorted(waiting, reverse=True), None):
                for n in turn if turn is not None else sorted(waiting):
                    self._apply(waiting.pop(n), removal)
                    if removal.changed:
                        waiting.update((order[op], op) for op in self._around(removal))

    def _apply(self, op: Op, removal: Removal) -> None:
        if op.name in PRODUCTS:
            nowhere = np.zeros((), bool)
            may = self.foldable.get(op, nowhere) | self.droppable.get(op, nowhere)
            tie_product(op, removal, self.knowledge, may)
        else:
            removal.because(Reason(WHOLE, op, NEEDS_WHOLE))
            tie(op, removal, functools.partial(neutral, self.knowledge, self._not_negative))

    def _around(self, removal: Removal) -> list[Op]:
        """The operations next to what changed last."""
        changed, removal.changed = removal.changed, set()
        return [op for node in changed for op in self._next_to.get(node, ())]

    def cutting(self, removal: Removal) -> Cutting:
        """The changes that remove it."""
        cuts = cuts_of(self.graph, removal)
        add: dict[str, np.ndarray] = {}
        for reads in reads_of(self.sinks).values():
            for op in next(iter(reads.values())):  # the others give the same
                if (constant := self.foldable[op]).any():
                    sink = self.sinks[op]
                    more = taken_up(op, sink, removal, self.knowledge, constant)
                    add[sink.bias.path] = add.get(sink.bias.path, np.zeros_like(more)) + more
        return Cutting(cuts, add, groups_of(self.model, self.graph, removal))

    def small(self, removal: Removal) -> tuple[Any, Record]:
        """The smaller model, and its record."""
        cuts, add, groups = self.cutting(removal)
        small = nnx.clone(self.model)
        cut_in_place(small, cuts, add)
        return small, Record(
            cuts=cuts, attributes=mend_in_place(small, groups, self.mend), stayed={}
        )

    def choose(self, made_up: Callable[[nnx.Module, Mapping[str, Cut], Compared], Made]) -> Shrunk:
        """The largest removable set without a fault, and why other dead units are kept.

        Each round keeps all axes at which the smaller model is not the cut one.

        Args:
          made_up: how weights and numbers compensate for faults, such as `Rescale(...).made_up`.
        """
        removal = self.removal()
        small, record = self.small(removal)
        graph = self.graph
        for turn in range(ROUNDS):
            same = functools.partial(compared, self.graph, self.inputs, removal)
            again = lambda one, cuts=record.cuts, same=same: made_up(one, cuts, same)
            made, guessed = self._guesses.made_for_other_shapes(small, removal, again)
            graph = made.graph
            if not made.faults:
                small, changes = made.small, made.changes
                attributes = merged(merged(record.attributes, guessed), changes.attributes)
                record = dataclasses.replace(record, attributes=attributes, factors=changes.factors)
                tell_of_guesses(guessed)
                break
            self._give_way(removal, made.faults, everywhere=turn == ROUNDS - 1)
            small, record = self.small(removal)
        stayed = explain(self.graph, self.knowledge, removal, self.foldable)
        stayed |= hidden_weights(self.model, record.cuts)
        for path, text in partly_dead(self.graph, self.knowledge, removal).items():
            stayed[path] = f"{stayed[path]}; {text}" if path in stayed else text
        return Shrunk(removal, small, graph, dataclasses.replace(record, stayed=stayed))

    def _give_way(self, removal: Removal, found: list[Fault], everywhere: bool) -> None:
        """Keep the axes at fault; all of them if that is not known, or `everywhere`."""
        axes = [removed_near(self.graph, removal, fault) for fault in found]
        texts = list(with_sizes(self.model, self.graph, removal, found, axes))
        for fault, text, near in zip(found, texts, axes, strict=True):
            removal.because(Reason(WHOLE, fault.op, text))
            for node, axis in near:
                removal.pin(node, axis)
        if everywhere or not removal.changed:
            removal.because(Reason(WHOLE, found[0].op, found[0].text))
            for node in self.graph.variables:
                removal.pin(node)
        self._settle(removal, self._around(removal))


def with_sizes(
    model: nnx.Module,
    graph: Graph,
    removal: Removal,
    found: list[Fault],
    axes: list[list[Axis]],
) -> Iterator[str]:
    """Each fault, with the sizes that modules store around the axes near it."""
    groups = Groups(graph, removal)
    stored = functools.cache(functools.partial(stored_as, model))
    for fault, near in zip(found, axes, strict=True):
        sizes = dict.fromkeys(one for node, _ in near for one in stored(*groups.around(node)))
        names = ", ".join(list(sizes)[:5])
        yield f"{fault.text}; `mend` may set {names}" if names else fault.text


def compared(
    graph: Graph, inputs: tuple, removal: Removal, small: nnx.Module, numbers: Numbers
) -> tuple[Graph, list[Fault]]:
    """What a smaller model computes, and its faults apart from numbers that change."""
    try:
        found = trace(small, inputs)
        return found, faults(graph, found, removal, numbers)
    except Exception as error:  # the model's own code may fix sizes and raise anything
        return graph, at_error(graph, removal, error)


def cuts_of(graph: Graph, removal: Removal) -> dict[str, Cut]:
    """What is kept of each variable that is cut, by path."""
    cuts = {}
    for node in graph.variables:
        keep = {
            axis: tuple(map(int, np.flatnonzero(removal.kept(node, axis))))
            for axis in range(len(node.shape))
            if removal.removed(node, axis).any()
        }
        if keep and node.path:
            cuts[node.path] = Cut(shape=node.shape, keep=keep)
    return cuts


def groups_of(model: nnx.Module, graph: Graph, removal: Removal) -> dict[str, int]:
    """How many groups remain of each grouped convolution, by path of the kernel.

    Also how many features of each group normalization without weights, by its path.
    """
    origins = graph.origins()
    return marked(model, graph, removal) | {
        origins[op.inputs[1]].path: removal.kept_shape(op.extra[0])[0]
        for op in graph.all_ops
        if op.extra and op.inputs[1] in origins
    }
