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

from jsparse._pure import by_name, by_position, calling, examples
from jsparse._surgery import fold
from jsparse.export._shrinking.attributes import fixed_axes, mend_in_place
from jsparse.export._shrinking.constants import PRODUCTS, Knowledge, know
from jsparse.export._shrinking.contractions import foldable, sinks, taken_up, tie_product
from jsparse.export._shrinking.couplings import tie
from jsparse.export._shrinking.cut import Cut, cut_in_place
from jsparse.export._shrinking.graph import Op, every, trace
from jsparse.export._shrinking.liveness import Axis, Removal
from jsparse.export._shrinking.record import Record
from jsparse.export._shrinking.verify import difference, largest_difference, rounding

Model = TypeVar("Model", bound=nnx.Module)


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
        self.droppable: Mapping[Op, np.ndarray] = {}

    def removal(self, pinned: Iterable[Axis]) -> Removal:
        """The largest removable set while these axes are kept."""
        removal = Removal(self.graph)
        self._pin(removal)
        for node, axis in pinned:
            removal.pin(node, axis)
        self._settle(removal)
        for node in reversed(self.graph.nodes()):  # readers first, as they decide what is needed
            for axis in range(len(node.shape)):
                if removal.removed(node, axis).all():  # an axis keeps at least one position
                    removal.narrow(node, axis, np.arange(node.shape[axis]) > 0)
                    self._settle(removal)
        return removal

    def _pin(self, removal: Removal) -> None:
        graph = self.graph
        read = {node for op in every(graph.ops) for node in op.inputs}
        for node in graph.nodes():
            if node in graph.variables:
                if node.value is None or node not in read:
                    removal.pin(node)
            elif node.value is not None:
                removal.pin(node)
        for node in [*graph.inputs, *graph.outputs]:
            removal.pin(node)
        for node in graph.variables:
            for path, axis in self.fixed:
                if node.path == path:
                    removal.pin(node, axis % len(node.shape))
        for node, seen in graph.partly_read().items():
            for axis, mask in enumerate(seen):
                removal.narrow(node, axis, mask)

    def _settle(self, removal: Removal) -> None:
        ops = every(self.graph.ops)
        removal.changed = True
        while removal.changed:
            removal.changed = False
            for op in [*reversed(ops), *ops]:
                if op.name in PRODUCTS:
                    nowhere = np.zeros((), bool)
                    may = self.foldable.get(op, nowhere) | self.droppable.get(op, nowhere)
                    tie_product(op, removal, self.knowledge, may)
                else:
                    tie(op, removal)

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
        small = fold(self.model)
        cut_in_place(small, cuts, add)
        return small, Record(cuts=cuts, attributes=mend_in_place(small, groups), stayed={})

    def choose(self) -> tuple[Removal, dict[str, str]]:
        """The largest removable set without a fault, and why other variables are kept, by path."""
        removal = self.removal(())
        if self.fault(self.small(removal)[0], removal):
            return _without_faults(self, removal)
        return removal, {}

    def fault(self, small: nnx.Module, removal: Removal) -> str:
        """What is wrong with a smaller model; empty if nothing is."""
        try:
            return difference(self.graph, trace(small, self.inputs), removal)
        except Exception as error:  # the model's own code may fix sizes and raise anything
            return f"{type(error).__name__}: {error}"


def shrink(model: Model, *example_inputs: Any, **options: Any) -> tuple[Model, Record]:
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
        length varies. Their values matter only for the comparison of outputs, so shapes do too:
        (4, 20) for float32, or `jax.ShapeDtypeStruct`.
      **options: arguments by name: arrays, or what is the same at each call.

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
    model, inputs = by_position(model, example_inputs, options)
    inputs = examples(inputs)
    with calling("example_inputs", inputs):
        plan = Plan(fold(model), inputs)
    removal, stayed = plan.choose()
    small, record = plan.small(removal)
    check_outputs(plan, plan.model, small)
    return by_name(small) if options else small, dataclasses.replace(record, stayed=stayed)


def check_outputs(plan: Plan, expected: nnx.Module, small: nnx.Module) -> None:
    """Compare a smaller model with one of full size.

    Raises:
      ValueError: it gives other outputs.
    """
    apart = largest_difference(expected, small, plan.inputs)
    allowed = rounding(plan.graph.variables)
    if not apart <= allowed:
        raise ValueError(
            f"the smaller model's outputs are off by {apart:.1e} of the largest, more than "
            f"{allowed:.1e}; keep the folded model, and please report the model"
        )


def _without_faults(plan: Plan, removal: Removal) -> tuple[Removal, dict[str, str]]:
    """Keep the axes that alone make the smaller model fail; all of them if that is not enough."""
    groups: dict[Axis, list[Axis]] = {}
    for node in plan.graph.variables:
        for axis in range(len(node.shape)):
            if removal.removed(node, axis).any():
                groups.setdefault(removal.root((node, axis)), []).append((node, axis))
    faulty: list[Axis] = []
    stayed: dict[str, str] = {}
    for root in groups:
        others = [axis for other, axes in groups.items() if other != root for axis in axes]
        alone = plan.removal(others)
        if fault := plan.fault(plan.small(alone)[0], alone):
            faulty += groups[root]
            stayed |= {node.path: fault for node, _ in groups[root]}
    removal = plan.removal(faulty)
    if fault := plan.fault(plan.small(removal)[0], removal):
        every_axis = [axis for axes in groups.values() for axis in axes]
        removal = plan.removal(every_axis)
        stayed |= {node.path: fault for node, _ in every_axis}
    return removal, stayed
