"""Tracing a model, in eval mode, into the list of its operations."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr
from jax.extend.core.primitives import reshape_p, transpose_p

from jsparse._jaxprs import WRAPPERS, interpret
from jsparse._paths import named
from jsparse._pure import evaluated, pure
from jsparse._slots import own_masks, slots, walk_modules
from jsparse._storage.leaves import is_key
from jsparse._untraced import is_abstract
from jsparse.export._shrinking.graph import Body, Graph, Node, Op, every, needed
from jsparse.export._shrinking.marks import mark_in_place
from jsparse.export._shrinking.pieces import LEVEL, pieces_of, run_pieces

STATES = nnx.Cache | nnx.RngState | nnx.Intermediate | nnx.Perturbation
"""Variables that calls or training write."""
QUICK = [LEVEL | {"xla_cpu_use_fusion_emitters": False}, LEVEL]
"""Options of compilations that take as little time as possible; not all versions know the first."""
FUNCTIONS = WRAPPERS | {"shard_map"}
"""Operations that contain functions and were not opened."""


def trace(model: nnx.Module, inputs: tuple) -> Graph:
    """The computation of a model without rules, in eval mode, on inputs of these shapes.

    Raises:
      ValueError: no output has an element, so that nothing can be compared.
    """
    graph = _trace(evaluated(model), inputs, lambda output, after: output)
    if all(0 in node.shape for node in graph.outputs):
        raise ValueError("the model returns no numbers for them; give a batch of 1 or more")
    return graph


def trace_statistics(model: nnx.Module, inputs: tuple) -> Graph:
    """The computation of the statistics of one batch, as batch normalization takes them.

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
    if is_abstract(model):
        raise TypeError("the model has shapes in place of arrays")
    mark_in_place(model)
    run, variables, _ = pure(model)
    leaves, form = jax.tree.flatten(inputs)
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]
    arrays = [leaves[n] for n in places]

    def traced(variables: dict[str, Any], arrays: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        given = dict(zip(places, arrays, strict=True))
        full = [given.get(n, leaf) for n, leaf in enumerate(leaves)]
        output, after = run(variables, *jax.tree.unflatten(form, full))
        return jax.tree.leaves(result(output, after)), after

    program = jax.jit(traced).trace(variables, arrays)
    closed = program.jaxpr
    made = len(closed.jaxpr.outvars) - len(variables)
    nodes = _variables(model, variables, closed.jaxpr.invars, closed.jaxpr.outvars[made:])
    given = [Node(tuple(leaf.shape), leaf.dtype) for leaf in arrays]
    ops: list[Op] = []
    outputs = _listed(closed, [*nodes, *given], ops, ())[:made]
    weights = [node for node in nodes if node.value is not None]
    ops = needed(ops, [*outputs, *_beside(ops, outputs, weights)])
    whole = functools.cache(lambda: _quick(program.lower()))
    alone = functools.partial(_alone, [*variables.values(), *arrays], ops, [*nodes, *given])
    pieces = functools.cache(lambda: pieces_of(ops, outputs) if alone() else [])

    def outcome(others: Mapping[str, Any]) -> list[Any]:
        now = {**variables, **others}
        if not pieces():
            return whole()(now, arrays)[0]
        values = [*(now[path] for path in sorted(now)), *arrays]
        start = dict(zip([*nodes, *given], values, strict=True))
        return run_pieces(pieces(), outputs, start)

    return Graph(ops, nodes, given, outputs, outcome)


def _variables(
    model: nnx.Module, variables: Mapping[str, Any], given: Sequence[Any], after: Sequence[Any]
) -> list[Node]:
    """The variables, with values of weights: of parameters, and others that calls do not change."""
    kinds = {s.path: type(s.value) for s in slots(model) if not is_key(variables.get(s.path))}
    masks = own_masks(model).keys()  # cut with their kernels, so no variables
    nodes = []
    # the leaves of a dict are in this order; behind them are the arrays among the inputs
    for path, before, now in zip(sorted(variables), given, after, strict=False):
        kind, leaf = kinds.get(path, nnx.RngState), variables[path]
        weight = issubclass(kind, nnx.Param | nnx.BatchStat)
        weight |= before is now and not issubclass(kind, STATES)
        value = np.asarray(leaf) if weight or path in masks else None
        nodes.append(Node(tuple(leaf.shape), leaf.dtype, "" if path in masks else path, value))
    return nodes


def _alone(arrays: Sequence[Any], ops: Sequence[Op], given: Sequence[Node]) -> bool:
    """Whether pieces can be run by themselves: on one device, and with all constants known."""
    if not FUNCTIONS.isdisjoint(op.name for op in ops):
        return False
    if any(isinstance(a, jax.Array) and len(a.sharding.device_set) > 1 for a in arrays):
        return False
    known = {*given, *(node for op in ops for node in op.outputs)}
    return all(n.value is not None or n in known for op in ops for n in op.inputs)


def _quick(program: Any) -> Callable[..., Any]:
    """Compile a program that runs once."""
    for options in QUICK if jax.default_backend() == "cpu" else []:
        with contextlib.suppress(RuntimeError):  # options differ between versions of XLA
            return program.compile(options)
    return program.compile()


def _node(var: Any) -> Node:
    return Node(tuple(getattr(var.aval, "shape", ())), getattr(var.aval, "dtype", None))


def _constant(value: Any, atom: Any) -> Node:
    dtype = atom.aval.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        data = np.asarray(jax.random.key_data(value))
        return Node(value.shape, dtype, key=data.tobytes())
    value = np.asarray(value, dtype)
    return Node(value.shape, value.dtype, value=value)


def _listed(closed: ClosedJaxpr, args: list[Node], ops: list[Op], above: tuple) -> list[Node]:
    """Append the operations of a jaxpr; return its outputs. `above`: tracebacks of its callers."""

    def listed(eqn: Any, inputs: list[Node], source: tuple) -> list[Node]:
        params, inputs = _transposed_before(eqn, inputs, ops, source)
        outputs = [_node(var) for var in eqn.outvars]
        bodies, extra = _bodies(eqn, len(inputs), source), _groups(eqn, inputs)
        ops.append(Op(eqn.primitive, params, inputs, outputs, extra, bodies, source))
        return outputs

    return interpret(closed, args, listed, _constant, above)


def _transposed_before(
    eqn: Any, inputs: list[Node], ops: list[Op], source: tuple
) -> tuple[dict[str, Any], list[Node]]:
    """The settings and inputs of an operation, for a reshape after the transposition in it."""
    order = eqn.params.get("dimensions") if eqn.primitive is reshape_p else None
    if order is None:
        return eqn.params, inputs
    node = inputs[0]
    transposed = Node(tuple(node.shape[axis] for axis in order), node.dtype)
    ops.append(Op(transpose_p, {"permutation": tuple(order)}, [node], [transposed], source=source))
    return eqn.params | {"dimensions": None}, [transposed]


def _groups(eqn: Any, inputs: list[Node]) -> tuple[Node, ...]:
    """The groups of a grouped convolution and the outputs of a group."""
    groups = eqn.params.get("feature_group_count", 1)
    if eqn.primitive.name != "conv_general_dilated" or groups == 1:
        return ()
    width = inputs[1].shape[eqn.params["dimension_numbers"].rhs_spec[0]] // groups
    return Node((groups,), np.int32), Node((width,), np.int32)


def _bodies(eqn: Any, count: int, source: tuple) -> tuple[Body, ...]:
    """The bodies of a loop or a branch with so many inputs."""
    params = eqn.params
    match eqn.primitive.name:
        case "scan":
            consts, carries = _counts(params)
            body = _body(params["jaxpr"], range(count), source)
            body.carried = {n: consts + n for n in range(carries)}
            body.sliced = range(consts + carries, count)
            body.stacked = range(carries, len(body.outputs))
            return (body,)
        case "while":
            tests, consts = params["cond_nconsts"], params["body_nconsts"]
            carry = range(tests + consts, count)
            test = _body(params["cond_jaxpr"], (*range(tests), *carry), source)
            test.makes = range(0)
            body = _body(params["body_jaxpr"], range(tests, count), source)
            body.carried = {n: consts + n for n in range(len(carry))}
            return test, body
        case "cond":
            return tuple(_body(inner, range(1, count), source) for inner in params["branches"])
    return ()


def _body(inner: ClosedJaxpr, reads: range | tuple[int, ...], source: tuple) -> Body:
    args = [_node(var) for var in inner.jaxpr.invars]
    ops: list[Op] = []
    made = _listed(inner, args, ops, source)
    return Body(needed(ops, made), args, made, reads, range(len(made)))


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants a scan has, and how many arrays it carries."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since jax 0.12
    return len(consts.vals), len(carry.vals)


def _beside(ops: list[Op], outputs: list[Node], weights: list[Node]) -> set[Node]:
    """What is made of weights that no output depends on: the code computes it all the same."""
    read = {node for op in every(needed(ops, outputs)) for node in op.inputs}
    found = {node for node in weights if node not in read}
    for op in ops:
        if not found.isdisjoint(op.inputs):
            found.update(op.outputs)
    return found
