"""Remove dead units, whose weights are zeros, from a model with everything that belongs to them.

1. Trace the model and find what is the same for every input (`constants`).
2. Mark every position of every axis as removable; un-mark what an operation needs until nothing
   changes (`liveness`, `couplings`, `contractions`). Inputs and outputs keep their axes.
3. Cut the parameters, move constants into biases, set the sizes that layers store as attributes.
4. Trace the smaller model: it must do the same operations with the same constants, and give the
   same outputs (`verify`). Axes for which it does not (the code fixes their size) are kept.

Reference: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, groups coupled
parameters in the same spirit; here the groups come from the operations alone, without rules for
layers.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from flax import nnx

from jsparse._surgery import fold
from jsparse.export._shrinking.attributes import fixed_axes, mend_in_place
from jsparse.export._shrinking.blame import at_error, explain, removed_near
from jsparse.export._shrinking.constants import Knowledge, know
from jsparse.export._shrinking.contractions import foldable, sinks, taken_up, tie_product
from jsparse.export._shrinking.couplings import tie
from jsparse.export._shrinking.cut import Cut, cut_in_place
from jsparse.export._shrinking.graph import Graph, Node, Op, every, readers_in
from jsparse.export._shrinking.liveness import (
    ENDS,
    NEEDS_WHOLE,
    WHOLE,
    Reason,
    Removal,
)
from jsparse.export._shrinking.operations import PRODUCTS
from jsparse.export._shrinking.record import Record
from jsparse.export._shrinking.tracing import trace
from jsparse.export._shrinking.verify import Fault, apart, faults, rounding

Model = TypeVar("Model", bound=nnx.Module)
ROUNDS = 8  # of tracing a smaller model; each settles every fault that it shows


class Cutting(NamedTuple):
    """The changes to a model.

    Attributes:
      cuts: by path of the variable.
      add: to a bias before it is cut, by path: [...] as it.
      groups: how many remain of grouped convolutions, by path of the kernel.
    """

    cuts: dict[str, Cut]
    add: dict[str, np.ndarray]
    groups: dict[str, int]


class Choice(NamedTuple):
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
      rigid: paths of biases that absorb no constant.

    Attributes:
      fixed: pairs of a path and an axis that is kept whole.
      droppable: positions of the only summed axis of a product that are removable with whatever
        they give, [n].
    """

    def __init__(self, model: nnx.Module, inputs: tuple, rigid: Iterable[str] = ()):
        self.model, self.inputs = model, inputs
        self.graph = trace(model, inputs)
        self.knowledge: Knowledge = know(self.graph)
        found = sinks(self.graph).items()
        self.sinks = {op: sink for op, sink in found if sink.bias.path not in rigid}
        self.foldable = {op: foldable(op, sink, self.knowledge) for op, sink in self.sinks.items()}
        self.fixed = fixed_axes(model)
        self._order: dict[Op, int] = {}
        self._next_to: dict[Node, list[Op]] = {}
        for n, op in enumerate(every(self.graph.ops)):
            self._order[op] = n
            inner = [node for body in op.bodies for node in (*body.inputs, *body.outputs)]
            for node in dict.fromkeys([*op.inputs, *op.outputs, *op.extra, *inner]):
                self._next_to.setdefault(node, []).append(op)
        self.droppable: Mapping[Op, np.ndarray] = {}

    def removal(self) -> Removal:
        """The largest removable set."""
        removal = Removal(self.graph)
        self._pin(removal)
        self._settle(removal, every(self.graph.ops))
        return removal

    def _pin(self, removal: Removal) -> None:
        graph = self.graph
        read = {node for op in every(graph.ops) for node in op.inputs}
        readers = readers_in(every(graph.ops))
        for node in graph.nodes():
            if node in graph.variables:
                if node.value is None or node not in read:
                    removal.because(
                        Reason(WHOLE, None, "the variable is no weight: calls write it")
                    )
                    removal.pin(node)
            elif node.value is not None and node.shape:
                op = next(iter(readers.get(node, [])), None)
                removal.because(Reason(WHOLE, op, f"reads a constant array of shape {node.shape}"))
                removal.pin(node)
        removal.because(Reason(ENDS))
        for node in [*graph.inputs, *graph.outputs]:
            removal.pin(node)
        for node in graph.variables:
            for path, axis in self.fixed:
                if node.path == path:
                    removal.because(Reason(WHOLE, None, "an attribute fixes the width"))
                    removal.pin(node, axis % len(node.shape))
        removal.because(Reason(WHOLE, None, "longer inputs may read more of it"))
        for node, seen in graph.partly_read().items():
            for axis, mask in enumerate(seen):
                removal.narrow(node, axis, mask)

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
        waiting = {self._order[op]: op for op in ops}
        while waiting:
            for turn in (sorted(waiting, reverse=True), None):
                for n in turn if turn is not None else sorted(waiting):
                    self._apply(waiting.pop(n), removal)
                    more = self._around(removal)
                    waiting |= {self._order[op]: op for op in more}

    def _apply(self, op: Op, removal: Removal) -> None:
        if op.name in PRODUCTS:
            nowhere = np.zeros((), bool)
            may = self.foldable.get(op, nowhere) | self.droppable.get(op, nowhere)
            tie_product(op, removal, self.knowledge, may)
        else:
            removal.because(Reason(WHOLE, op, NEEDS_WHOLE))
            tie(op, removal, self.knowledge)

    def _around(self, removal: Removal) -> list[Op]:
        """The operations next to what changed last."""
        changed, removal.changed = removal.changed, set()
        return [op for node in changed for op in self._next_to.get(node, ())]

    def cutting(self, removal: Removal) -> Cutting:
        """The changes that remove it."""
        cuts = {}
        for node in self.graph.variables:
            axes = range(len(node.shape))
            keep = {
                axis: tuple(map(int, np.flatnonzero(removal.kept(node, axis))))
                for axis in axes
                if removal.removed(node, axis).any()
            }
            if keep:
                cuts[node.path] = Cut(shape=node.shape, keep=keep)
        add: dict[str, np.ndarray] = {}
        for op, sink in self.sinks.items():
            if (constant := self.foldable[op]).any():
                more = taken_up(op, sink, removal, self.knowledge, constant)
                add[sink.bias.path] = add.get(sink.bias.path, np.zeros_like(more)) + more
        origins = self.graph.origins()
        groups = {
            origins[op.inputs[1]].path: removal.kept_shape(op.extra[0])[0]
            for op in every(self.graph.ops)
            if op.extra and op.inputs[1] in origins
        }
        return Cutting(cuts, add, groups)

    def small(self, removal: Removal) -> tuple[Any, Record]:
        """The smaller model, and its record."""
        cuts, add, groups = self.cutting(removal)
        small = nnx.clone(self.model)
        cut_in_place(small, cuts, add)
        return small, Record(cuts=cuts, attributes=mend_in_place(small, groups), stayed={})

    def choose(self) -> "Choice":
        """The largest removable set without a fault, and why other dead units are kept.

        Each round keeps all axes at which the smaller model is not the cut one.
        """
        removal = self.removal()
        small, record = self.small(removal)
        graph = self.graph
        for turn in range(ROUNDS):
            graph, found = self.compared(small, removal)
            if not found:
                break
            self._give_way(removal, found, everywhere=turn == ROUNDS - 1)
            small, record = self.small(removal)
        stayed = explain(self.graph, self.knowledge, removal)
        return Choice(removal, small, graph, dataclasses.replace(record, stayed=stayed))

    def _give_way(self, removal: Removal, found: list[Fault], everywhere: bool) -> None:
        """Keep the axes at fault; all of them if that is not known, or `everywhere`."""
        for fault in found:
            removal.because(Reason(WHOLE, fault.op, fault.text))
            for node, axis in removed_near(self.graph, removal, fault):
                removal.pin(node, axis)
        if everywhere or not removal.changed:
            removal.because(Reason(WHOLE, found[0].op, found[0].text))
            for node in self.graph.variables:
                removal.pin(node)
        self._settle(removal, self._around(removal))

    def compared(self, small: nnx.Module, removal: Removal) -> tuple[Graph, list[Fault]]:
        """What a smaller model computes, and what is wrong with it."""
        try:
            graph = trace(small, self.inputs)
            return graph, faults(self.graph, graph, removal)
        except Exception as error:  # the model's own code may fix sizes and raise anything
            return self.graph, at_error(self.graph, removal, error)


def shrink(model: Model, *example_inputs: Any) -> tuple[Model, Record]:
    """Remove dead units from a model; return the physically smaller plain model and a record.

    A unit (an output of a layer, a channel, an attention head, a cell of an LSTM) is removed when
    its incoming or all its outgoing weights are zeros and nothing else needs it. Which axes of
    which parameters belong together is read from the traced computation, so any NNX module works.
    Outputs are those of the folded model in eval mode; the constant of a dead unit moves into the
    biases that follow. Inputs, outputs and axes that a normalisation averages over keep their size.
    Axes whose size is fixed in the model's own code are kept (the record's `stayed` names them), as
    is whatever the call in eval mode does not use.

    Args:
      model: any NNX module, sparse or folded; not changed.
      *example_inputs: arguments of a call, of any batch size, and longer than 1 along axes whose
        length varies. Their values matter only for the comparison of outputs.

    Returns:
      (the smaller model, the record from which `rebuild` makes a fresh model of that size).

    Raises:
      ValueError: the smaller model gives other outputs; please report it.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> model.layers[0].kernel[...] = model.layers[0].kernel[...].at[:, 2:].set(0.0)
      >>> small, record = shrink(model, jnp.ones((1, 4)))
      >>> small.layers[0].kernel.shape, small.layers[2].in_features
      ((4, 2), 2)
    """
    plan = Plan(fold(model), example_inputs)
    _, small, graph, record = plan.choose()
    if record.cuts:
        check_outputs(plan.graph, graph)
    return small, record


def check_outputs(expected: Graph, small: Graph) -> None:
    """Compare a smaller model with one of full size.

    Raises:
      ValueError: it gives other outputs.
    """
    off = apart(expected.run(), small.run())
    allowed = rounding(expected.variables)
    if not off <= allowed:
        raise ValueError(
            f"the smaller model's outputs are off by {off:.1e} of the largest, more than "
            f"{allowed:.1e}; keep the folded model, and please report the model"
        )
