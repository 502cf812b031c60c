"""What a model computes, as one flat list of operations over numbered axes.

The model is traced in eval mode (its jaxpr). Calls that only wrap other operations (`jit`, `remat`,
custom gradients) are opened in place; a `scan` keeps its body as a list of its own. What the
outputs do not depend on is left out.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import Jaxpr, Literal

from jsparse._opened import opened
from jsparse._paths import named
from jsparse._pure import evaluated, pure
from jsparse._slots import slots, walk_modules

SLICES = {"slice", "dynamic_slice", "gather"}


@dataclasses.dataclass(eq=False)
class Node:
    """An array of the computation.

    Attributes:
      shape: [...].
      dtype: of its elements.
      path: of the variable of the model that it is, or empty.
      value: its elements where they are the same at each call: of a parameter, a constant.
    """

    shape: tuple[int, ...]
    dtype: Any
    path: str = ""
    value: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class Op:
    """An operation.

    Attributes:
      primitive: of JAX.
      params: its settings.
      inputs: what it reads.
      outputs: what it makes.
      extra: nodes that stand for the groups of a grouped convolution and the outputs of a group.
      body: of a scan.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: list[Node]
    outputs: list[Node]
    extra: tuple[Node, ...] = ()
    body: "Body | None" = None

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name


@dataclasses.dataclass(eq=False)
class Body:
    """What a scan does at each step: constants, carry and slices in; carry and slices out.

    Attributes:
      ops: in order.
      inputs: constants, carry, slices.
      outputs: carry, slices.
      consts: how many constants.
      carries: how many arrays are carried.
    """

    ops: list[Op]
    inputs: list[Node]
    outputs: list[Node]
    consts: int
    carries: int


@dataclasses.dataclass(eq=False)
class Graph:
    """What a model computes from its variables and inputs."""

    ops: list[Op]
    variables: list[Node]
    inputs: list[Node]
    outputs: list[Node]

    def nodes(self) -> list[Node]:
        """Every node once: variables, inputs, then in the order in which they are made."""
        found = dict.fromkeys([*self.variables, *self.inputs])
        for op in every(self.ops):
            inner = [*op.body.inputs, *op.body.outputs] if op.body else []
            found.update(dict.fromkeys([*op.inputs, *op.outputs, *op.extra, *inner]))
        found.update(dict.fromkeys(self.outputs))
        return list(found)

    def origins(self) -> dict[Node, Node]:
        """The variable that a node is but for its type, as in half precision or inside a scan."""
        found = {node: node for node in self.variables}
        for op in every(self.ops):
            if op.name == "convert_element_type" and op.inputs[0] in found:
                found[op.outputs[0]] = found[op.inputs[0]]
            if op.body is not None:
                pairs = zip(op.body.inputs, op.inputs, strict=True)
                found.update({inner: found[outer] for inner, outer in pairs if outer in found})
        return found

    def partly_read(self) -> dict[Node, list[np.ndarray]]:
        """Which positions of each axis are read, of arrays that only slices read: [n] each.

        Longer inputs may read the others, as in a table of positions.
        """
        found = {}
        for node, ops in readers_in(every(self.ops)).items():
            slices = [op.name in SLICES and op.inputs[0] is node for op in ops]
            if all(slices):
                seen = [np.zeros(n, bool) for n in node.shape]
                for op in ops:
                    for mask, span in zip(seen, _spans(op), strict=True):
                        mask[span] = True
                found[node] = seen
        return found


def _spans(op: Op) -> list[slice]:
    """What a slice reads along each axis, whatever the input; nothing where that depends on it."""
    if op.name == "slice":
        return [
            slice(*map(int, span))
            for span in zip(op.params["start_indices"], op.params["limit_indices"], strict=True)
        ]
    sizes = zip(op.inputs[0].shape, op.params["slice_sizes"], strict=True)
    return [slice(0, n if n == size else 0) for n, size in sizes]


def readers_in(ops: Iterable[Op]) -> dict[Node, list[Op]]:
    """The operations that read each node, one entry for each time they do."""
    readers: dict[Node, list[Op]] = {}
    for op in ops:
        for node in op.inputs:
            readers.setdefault(node, []).append(op)
    return readers


def every(ops: Iterable[Op]) -> list[Op]:
    """The operations and those of the bodies of scans."""
    return [o for op in ops for o in (op, *(every(op.body.ops) if op.body else ()))]


Run = tuple[Callable, dict[str, Any], list[Any]]


def call(model: nnx.Module, inputs: tuple) -> Run:
    """The model, in the mode it is in, as a function of variables and the arrays among its inputs.

    Returns:
      (function(variables, arrays) -> (output, variables after), variables by path, arrays).
    """
    run, variables, _ = pure(model)
    leaves, form = jax.tree.flatten(inputs)
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

    def function(variables: dict[str, Any], arrays: list[Any]) -> tuple[Any, dict[str, Any]]:
        given = dict(zip(places, arrays, strict=True))
        full = [given.get(n, leaf) for n, leaf in enumerate(leaves)]
        return run(variables, *jax.tree.unflatten(form, full))

    return function, variables, [leaves[n] for n in places]


def trace(model: nnx.Module, inputs: tuple) -> Graph:
    """The computation of a model without rules, in eval mode, on inputs of these shapes."""
    return _trace(evaluated(model), inputs, lambda output, after: output)


def trace_statistics(model: nnx.Module, inputs: tuple) -> Graph:
    """The computation of the statistics of one batch, as batch normalisation takes them.

    Its outputs are what the model's `nnx.BatchStat` become if they follow the batch at once, in
    the order of `nnx.state(model, nnx.BatchStat)`.
    """
    model = evaluated(model)
    for _, module in walk_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.use_running_average, module.momentum = False, 0.0
    paths = named(nnx.state(model, nnx.BatchStat))
    return _trace(model, inputs, lambda output, after: [after[path] for path in paths])


def _trace(model: nnx.Module, inputs: tuple, result: Callable[[Any, Any], Any]) -> Graph:
    run, variables, arrays = call(model, inputs)
    closed = jax.make_jaxpr(lambda v, a: jax.tree.leaves(result(*run(v, a))))(variables, arrays)
    fixed = {s.path for s in slots(model) if isinstance(s.value, nnx.Param | nnx.BatchStat)}
    nodes = [
        Node(tuple(leaf.shape), leaf.dtype, path, np.asarray(leaf) if path in fixed else None)
        for path, leaf in sorted(variables.items())  # as the leaves of a dict are
    ]
    given = [Node(tuple(leaf.shape), leaf.dtype) for leaf in arrays]
    ops: list[Op] = []
    outputs = _inline(closed.jaxpr, closed.consts, [*nodes, *given], ops)
    return Graph(_needed(ops, outputs), nodes, given, outputs)


def _node(var: Any) -> Node:
    return Node(tuple(getattr(var.aval, "shape", ())), getattr(var.aval, "dtype", None))


def _constant(value: Any) -> Node:
    if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended):
        return Node(value.shape, value.dtype)  # random keys
    value = np.asarray(value)
    return Node(value.shape, value.dtype, value=value)


def _inline(jaxpr: Jaxpr, consts: Sequence[Any], args: list[Node], ops: list[Op]) -> list[Node]:
    """Append the operations of a jaxpr; return its outputs."""
    at: dict[Any, Node] = dict(zip(jaxpr.invars, args, strict=True))
    at |= {var: _constant(value) for var, value in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Node:
        return _constant(atom.val) if isinstance(atom, Literal) else at[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        inner = opened(eqn)
        if inner is not None:
            outputs = _inline(inner.jaxpr, inner.consts, inputs, ops)
        else:
            outputs = [_node(var) for var in eqn.outvars]
            ops.append(_op(eqn, inputs, outputs))
        at.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _op(eqn: Any, inputs: list[Node], outputs: list[Node]) -> Op:
    if eqn.primitive.name == "scan":
        inner = eqn.params["jaxpr"]
        args = [_node(var) for var in inner.jaxpr.invars]
        ops: list[Op] = []
        made = _inline(inner.jaxpr, inner.consts, args, ops)
        body = Body(_needed(ops, made), args, made, *_counts(eqn.params))
        return Op(eqn.primitive, eqn.params, inputs, outputs, body=body)
    extra: tuple[Node, ...] = ()
    groups = eqn.params.get("feature_group_count", 1)
    if eqn.primitive.name == "conv_general_dilated" and groups > 1:
        width = inputs[1].shape[eqn.params["dimension_numbers"].rhs_spec[0]] // groups
        extra = (Node((groups,), np.int32), Node((width,), np.int32))
    return Op(eqn.primitive, eqn.params, inputs, outputs, extra)


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants a scan has, and how many arrays it carries."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since jax 0.12
    return len(consts.vals), len(carry.vals)


def _needed(ops: list[Op], outputs: list[Node]) -> list[Op]:
    """The operations on which the outputs depend."""
    wanted = set(outputs)
    kept = []
    for op in reversed(ops):
        if wanted.intersection(op.outputs):
            kept.append(op)
            wanted.update(op.inputs)
    return kept[::-1]
