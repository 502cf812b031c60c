"""What a model computes, as one flat list of operations over numbered axes.

Calls that only wrap other operations are opened in place; loops and branches keep their bodies as
lists of their own. What the outputs do not depend on is left out.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SLICES = {"slice", "dynamic_slice", "gather"}


@dataclasses.dataclass(eq=False)
class Node:
    """An array of the computation.

    Attributes:
      shape: [...].
      dtype: of its elements.
      path: of the variable of the model that it is, or empty.
      value: its elements where they are the same at each call: of a parameter, a constant.
      key: the data of random keys that are the same at each call.
    """

    shape: tuple[int, ...]
    dtype: Any
    path: str = ""
    value: np.ndarray | None = None
    key: bytes = b""


@dataclasses.dataclass(eq=False)
class Op:
    """An operation.

    Attributes:
      primitive: of JAX.
      params: its settings.
      inputs: what it reads.
      outputs: what it makes.
      extra: nodes that stand for the groups of a grouped convolution and the outputs of a group.
      bodies: of a loop or a branch.
      source: where the code calls it: tracebacks, from the outermost call that was opened inwards.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: list[Node]
    outputs: list[Node]
    extra: tuple[Node, ...] = ()
    bodies: tuple["Body", ...] = ()
    source: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    @property
    def nodes(self) -> list[Node]:
        """All that it reads and makes, and the inputs and outputs of its bodies, each once."""
        inner = [n for body in self.bodies for n in (*body.inputs, *body.outputs)]
        return list(dict.fromkeys([*self.inputs, *self.outputs, *self.extra, *inner]))


@dataclasses.dataclass(eq=False)
class Body:
    """The body of a loop, its condition, or a branch.

    Attributes:
      ops: in order.
      inputs: what it reads.
      outputs: what it makes.
      reads: the input of the operation that each input is.
      makes: the output of the operation that each output is; none for a condition.
      carried: the input that an output becomes at the next step.
      sliced: inputs that are one slice, along the first axis.
      stacked: outputs that are one slice.
    """

    ops: list[Op]
    inputs: list[Node]
    outputs: list[Node]
    reads: range | tuple[int, ...]
    makes: range
    carried: dict[int, int] = dataclasses.field(default_factory=dict)
    sliced: range = range(0)
    stacked: range = range(0)

    def given(self, op: Op) -> list[tuple[Node, Node]]:
        """Each input, and the input of the operation that it is, or is a slice of, at the start."""
        return [(inner, op.inputs[n]) for inner, n in zip(self.inputs, self.reads, strict=True)]

    def uncarried(self, op: Op) -> list[tuple[Node, Node]]:
        """The same without what changes from step to step."""
        carried = {*self.carried.values()}
        return [pair for k, pair in enumerate(self.given(op)) if k not in carried]

    def same(self, op: Op) -> list[tuple[Node, Node]]:
        """Pairs of nodes inside and outside, or of two steps, that are the same array."""
        given = enumerate(self.given(op))
        pairs = [(outer, inner) for k, (inner, outer) in given if k not in self.sliced]
        pairs += [
            (op.outputs[outer], self.outputs[inner])
            for inner, outer in enumerate(self.makes)
            if inner not in self.stacked
        ]
        return pairs + [(self.outputs[o], self.inputs[i]) for o, i in self.carried.items()]

    def slices(self, op: Op) -> list[tuple[Node, Node]]:
        """Pairs of a node outside and its slice inside."""
        pairs = [(op.inputs[self.reads[n]], self.inputs[n]) for n in self.sliced]
        return pairs + [(op.outputs[self.makes[n]], self.outputs[n]) for n in self.stacked]


@dataclasses.dataclass(eq=False)
class Graph:
    """What a model computes from its variables and inputs.

    Attributes:
      ops: in order.
      variables: by path.
      inputs: the arrays among the inputs of the call.
      outputs: of the call.
      run: computes the outputs, with these variables, by path, in place of the model's.
    """

    ops: list[Op]
    variables: list[Node]
    inputs: list[Node]
    outputs: list[Node]
    run: Callable[[Mapping[str, Any]], list[Any]]

    @functools.cached_property
    def all_ops(self) -> list[Op]:
        """The operations in order, each loop and branch before those of its bodies."""
        return every(self.ops)

    @functools.cached_property
    def order(self) -> dict[Op, int]:
        """The position of each operation in `all_ops`."""
        return {op: n for n, op in enumerate(self.all_ops)}

    @functools.cached_property
    def readers(self) -> dict[Node, list[Op]]:
        """The operations that read each node, one entry for each time they do."""
        readers: dict[Node, list[Op]] = {}
        for op in self.all_ops:
            for node in op.inputs:
                readers.setdefault(node, []).append(op)
        return readers

    @functools.cached_property
    def unread(self) -> list[Node]:
        """What the code computes and nothing reads, from weights that no output depends on."""
        used = set(needed(self.ops, self.outputs))
        beside = [op for op in self.ops if op not in used]
        return [node for op in beside for node in op.outputs if node not in self.readers]

    @functools.cached_property
    def makers(self) -> dict[Node, Op]:
        """The operation that makes each node."""
        return {node: op for op in self.all_ops for node in op.outputs}

    @functools.cached_property
    def before(self) -> dict[Node, list[Node]]:
        """What each node is made of; inputs of bodies are what these are given."""
        found = {}
        for op in self.all_ops:
            found |= dict.fromkeys(op.outputs, op.inputs)
            for body in op.bodies:
                found |= {inner: [outer] for inner, outer in body.given(op)}
        return found

    def nodes(self) -> list[Node]:
        """Every node once: variables, inputs, then in the order in which they are made."""
        made = [node for op in self.all_ops for node in op.nodes]
        return list(dict.fromkeys([*self.variables, *self.inputs, *made, *self.outputs]))

    def sources(self) -> dict[Node, tuple[Node, str]]:
        """The array outside all loops that a node is, or is a slice of, and its variable's path.

        The array is the variable itself, or the variable with its axes in the order of `vmap`.
        """
        found = {node: (node, node.path) for node in self.variables}
        for op in self.all_ops:
            for node in op.inputs[:1]:
                if op.name == "convert_element_type" and node in found:
                    found[op.outputs[0]] = found[node]
                if op.name == "transpose" and node in found:
                    found[op.outputs[0]] = op.outputs[0], found[node][1]
            for body in op.bodies:
                found |= {inner: found[n] for inner, n in body.given(op) if n in found}
        return found

    def origins(self) -> dict[Node, Node]:
        """The variable that a node is, also inside a loop or in another type."""
        return {node: array for node, (array, _) in self.sources().items() if array.path}

    def partly_read(self) -> dict[Node, list[np.ndarray]]:
        """Which positions of each axis are read, of arrays that only slices read: [n] each.

        Longer inputs may read the others, as in a table of positions.
        """
        found = {}
        for node, ops in self.readers.items():
            if all(op.name in SLICES and op.inputs[0] is node for op in ops):
                seen = [np.zeros(n, bool) for n in node.shape]
                for op in ops:
                    for mask, span in zip(seen, spans(op), strict=True):
                        mask[span] = True
                found[node] = seen
        return found


def spans(op: Op) -> tuple[slice, ...]:
    """What a slice reads along each axis, whatever the input; nothing where that depends on it."""
    if op.name == "slice":
        steps = op.params["strides"] or [1] * len(op.params["start_indices"])
        limits = zip(op.params["start_indices"], op.params["limit_indices"], steps, strict=True)
        return tuple(slice(*map(int, limit)) for limit in limits)
    sizes = zip(op.inputs[0].shape, op.params["slice_sizes"], strict=True)
    return tuple(slice(0, n if n == size else 0) for n, size in sizes)


def every(ops: Iterable[Op]) -> list[Op]:
    """The operations and those of the bodies of loops and branches."""
    return [o for op in ops for o in (op, *(i for body in op.bodies for i in every(body.ops)))]


def needed(ops: Sequence[Op], outputs: Iterable[Node]) -> list[Op]:
    """The operations on which the outputs depend."""
    wanted = set(outputs)
    kept = []
    for op in reversed(ops):
        if wanted.intersection(op.outputs):
            kept.append(op)
            wanted.update(op.inputs)
    return kept[::-1]
