"""A computation cut into parts: each operation runs once, and values not read again are freed.

1. The computation is traced. Calls that only wrap other operations are opened in place; a `scan`
   or `cond` is one operation.
2. Part k is what the k-th group of results needs and no earlier part has made.
3. After it some variables change. What was computed from them is out of date: it is recomputed in a
   later part that needs it, and only then.
4. A value is kept until the last part that reads it.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from jsparse._jaxprs import evaluate, interpret, reachable
from jsparse._pure import calling


class Equation(NamedTuple):
    """An operation on numbered values, or on constants (`Literal`)."""

    eqn: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]


class Traced(NamedTuple):
    """A function as a list of operations in order, on numbered values.

    Attributes:
      inputs: numbers of the leaves of the arguments.
      results: numbers of the results by path, or constants.
      constants: values by number.
    """

    ops: list[Equation]
    inputs: list[int]
    results: dict[str, Any]
    constants: dict[int, Any]


@dataclass(frozen=True)
class Part:
    """Operations that run together; those of equal blocks are equal, so compiled once.

    Attributes:
      form: all that is compiled.
      ops: in order.
      reads: numbers of the values it reads.
      makes: numbers of the values that are read after it.
      stays: numbers of all values that are read after it.
    """

    form: Hashable
    ops: Sequence[Equation] = field(compare=False, repr=False)
    reads: tuple[int, ...] = field(compare=False)
    makes: tuple[int, ...] = field(compare=False)
    stays: frozenset[int] = field(compare=False)


class Group(NamedTuple):
    """Results that are needed next, and variables that change then; by number."""

    results: Sequence[Any]
    changes: Sequence[int]


class Sweep:
    """A function, part by part over all batches.

    Attributes:
      variables: arrays by path, which may be replaced between two parts.

    Args:
      function: (variables, batch) -> arrays by path.
      variables: its first argument.
      batches: each new shape is traced and compiled by itself.

    Raises:
      TypeError, ValueError: the function fails with a batch; the message names its arrays.
    """

    def __init__(
        self, function: Callable[..., Any], variables: dict[str, Any], batches: Sequence[Any]
    ):
        self.variables, self.kinds = variables, list(map(_kind, batches))
        self.leaves = list(map(jax.tree.leaves, batches))
        self.traces: dict[Hashable, Traced] = {}
        for kind, one in zip(self.kinds, batches, strict=True):
            if kind not in self.traces:
                with calling("batches", one):
                    self.traces[kind] = traced(function, variables, one)

    def run(
        self, groups: Sequence[tuple[Sequence[str], Sequence[str]]]
    ) -> Iterator[dict[str, Any]]:
        """The sum over batches of each group's results by path, one group after the other.

        Args:
          groups: paths of results, and paths of the variables that change after them.
        """
        numbers = {path: n for n, path in enumerate(sorted(self.variables))}
        names = {n: path for path, n in numbers.items()}
        parts = {}
        for kind, one in self.traces.items():
            several = [
                Group([one.results[p] for p in wanted], [numbers[p] for p in changed])
                for wanted, changed in groups
            ]
            parts[kind] = cut(one.ops, several)
        at_hand = [
            dict(zip(self.traces[kind].inputs[len(numbers) :], leaves, strict=True))
            | self.traces[kind].constants
            for kind, leaves in zip(self.kinds, self.leaves, strict=True)
        ]
        do = jax.jit(lambda part, read: _made(part, read), static_argnums=0)  # freed with the sweep
        for k, (wanted, _) in enumerate(groups):
            sums: dict[str, Any] = {}
            for n, kind in enumerate(self.kinds):
                part = parts[kind][k]
                lookup = lambda i, n=n: self.variables[names[i]] if i in names else at_hand[n][i]
                made = do(part, [lookup(i) for i in part.reads])
                at_hand[n] |= zip(part.makes, made, strict=True)
                for path in wanted:
                    atom = self.traces[kind].results[path]
                    value = atom.val if isinstance(atom, Literal) else lookup(atom)
                    sums[path] = sums[path] + value if path in sums else value
                at_hand[n] = {i: at_hand[n][i] for i in part.stays if i in at_hand[n]}
            yield sums


def _kind(batch: Any) -> Hashable:
    """The structure, shapes and types of a batch."""
    leaves, form = jax.tree.flatten(batch)
    return form, tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)


def traced(function: Callable[..., Any], *args: Any) -> Traced:
    """The operations of a function of arrays, which returns others by path (1)."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    numbers, ops, constants = itertools.count(), [], {}

    def listed(eqn: Any, inputs: list[Any], _: tuple) -> tuple[int, ...]:
        ops.append(Equation(eqn, tuple(inputs), tuple(itertools.islice(numbers, len(eqn.outvars)))))
        return ops[-1].outputs

    def constant(value: Any, atom: Any) -> Any:
        if isinstance(atom, Literal):
            return atom
        constants[number := next(numbers)] = value
        return number

    inputs = list(itertools.islice(numbers, len(closed.jaxpr.invars)))
    made = interpret(closed, inputs, listed, constant)
    return Traced(ops, inputs, dict(zip(sorted(shapes), made, strict=True)), constants)


def cut(ops: Sequence[Equation], groups: Iterable[Group]) -> list[Part]:
    """The parts of a computation, one for each group (2, 3, 4)."""
    maker = {value: n for n, op in enumerate(ops) for value in op.outputs}
    readers: dict[int, list[int]] = {}
    for n, op in enumerate(ops):
        for value in _numbers(op.inputs):
            readers.setdefault(value, []).append(n)
    done: set[int] = set()
    chosen = []
    to_do = lambda values: [maker[v] for v in values if v in maker and maker[v] not in done]
    stale = lambda values: [n for v in values for n in readers.get(v, ()) if n in done]
    for group in groups:
        now = reachable(to_do(_numbers(group.results)), lambda n: to_do(_numbers(ops[n].inputs)))
        chosen.append([ops[n] for n in sorted(now)])
        done |= now.keys()
        done -= reachable(stale(group.changes), lambda n: stale(ops[n].outputs)).keys()
    return _with_last_uses(chosen, [_numbers(group.results) for group in groups])


def _with_last_uses(
    chosen: Sequence[Sequence[Equation]], results: Sequence[list[int]]
) -> list[Part]:
    parts = []
    later: frozenset[int] = frozenset()
    for ops, wanted in zip(reversed(chosen), reversed(results), strict=True):
        made = {value for op in ops for value in op.outputs}
        read = {value for op in ops for value in _numbers(op.inputs)} - made
        reads = tuple(sorted(read))
        makes = tuple(sorted(made & (later | set(wanted))))
        parts.append(Part(_listed(reads, ops, makes), ops, reads, makes, later))
        later = (later - made) | read | (set(wanted) - made)
    return parts[::-1]


def _made(part: Part, values: Sequence[Any]) -> list[Any]:
    """The values that a part makes from those it reads."""
    at_hand = dict(zip(part.reads, values, strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else at_hand[atom]
    for eqn, inputs, outputs in part.ops:
        with eqn.ctx.manager:
            made = evaluate(eqn.primitive, eqn.params, *map(read, inputs))
        at_hand.update(zip(outputs, made, strict=True))
    return [at_hand[value] for value in part.makes]


def _numbers(atoms: Iterable[Any]) -> list[int]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _listed(reads: Sequence[Any], ops: Iterable[tuple], makes: Sequence[Any]) -> Hashable:
    """What operations do, whatever their values are called: equal for equal blocks."""
    own = {value: n for n, value in enumerate(reads)}
    at = lambda atom: _form(atom) if isinstance(atom, Literal) else own[atom]
    rows = []
    for eqn, inputs, outputs in ops:
        rows.append((eqn.primitive, _form(eqn.params), tuple(map(at, inputs)), len(outputs)))
        for value in outputs:
            own[value] = len(own)
    return tuple(rows), tuple(map(at, makes))


def _form(value: Any) -> Hashable:
    """Equal for equal settings of operations; an array or a jaxpr is equal by its contents."""
    if isinstance(value, Literal):
        return _form(value.val), str(value.aval)
    if isinstance(value, dict):
        return tuple((name, _form(one)) for name, one in sorted(value.items()))
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_form, value))
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), value.tobytes()
    if hasattr(value, "eqns"):  # a jaxpr, closed or not
        return _jaxpr_form(value)
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _jaxpr_form(value: Any) -> Hashable:
    jaxpr = getattr(value, "jaxpr", value)
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    ops = [(eqn, eqn.invars, eqn.outvars) for eqn in jaxpr.eqns]
    shapes = tuple(str(var.aval) for var in inputs)
    consts = tuple(map(id, getattr(value, "consts", ())))
    return shapes, _listed(inputs, ops, jaxpr.outvars), consts
