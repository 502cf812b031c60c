"""Running a computation in pieces, of which equal ones are compiled once.

1. A piece begins at each product and ends before the next.
2. Pieces are equal if they do the same operations on arrays of the same shapes, wired alike; the
   values of weights and constants are arguments.
3. Each kind of piece is compiled once, so the cost of compiling a deep model hardly depends on its
   depth, whereas XLA compiles every layer of a whole program separately.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jsparse._jaxprs import evaluate
from jsparse.export._shrinking.graph import Node, Op
from jsparse.export._shrinking.operations import PRODUCTS

LEVEL = {"xla_backend_optimization_level": "0", "xla_cpu_parallel_codegen_split_count": 1}
"""Small programs compile in half the processor time this way: not optimized, and in one part."""
FEW = 8
"""This many pieces of a kind justify compiling it separately: a kind takes about 30 ms."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of an operation; `key` is what they are compared by."""

    params: dict[str, Any] = dataclasses.field(compare=False)
    key: Any


class Kind(NamedTuple):
    """What pieces have in common; it holds no arrays of a model.

    Attributes:
      rows: of each operation its primitive, settings and inputs. Arrays are numbered: first those
        that the piece reads, then those that it makes.
      shapes: of what it reads.
      makes: what others need of it.
    """

    rows: tuple[tuple[Any, Settings, tuple[int, ...]], ...]
    shapes: tuple[tuple[tuple[int, ...], str], ...]
    makes: tuple[int, ...]


class Piece(NamedTuple):
    """Operations that follow one another.

    Attributes:
      reads: what they need.
      makes: what others need of them.
      frees: what is not needed after them.
      kind: equal for equal pieces.
    """

    reads: list[Node]
    makes: list[Node]
    frees: list[Node]
    kind: Kind


def pieces_of(ops: Sequence[Op], outputs: Sequence[Node]) -> list[Piece]:
    """The pieces of a computation, in order; none where few of them are equal.

    Running the whole program is then no slower. A piece cannot be run alone if a constant is not
    known, such as a random key.
    """
    lists: list[list[Op]] = [[]]
    for op in ops:
        if op.name in PRODUCTS and lists[-1]:
            lists.append([])
        lists[-1].append(op)
    made = {node: n for n, some in enumerate(lists) for op in some for node in op.outputs}
    last = {node: n for n, some in enumerate(lists) for op in some for node in op.inputs}
    last |= dict.fromkeys(outputs, len(lists))
    frees: list[list[Node]] = [[] for _ in range(len(lists) + 1)]
    for node, n in last.items():
        if node in made and made[node] < n:
            frees[n].append(node)
    found = []
    for n, some in enumerate(lists):
        makes = [node for op in some for node in op.outputs if last.get(node, -1) > n]
        found.append(_piece(some, makes, frees[n]))
    return found if FEW * len({piece.kind for piece in found}) <= len(found) else []


def run_pieces(
    pieces: Sequence[Piece], outputs: Sequence[Node], given: Mapping[Node, Any]
) -> list[Any]:
    """What the pieces compute, in order, from given arrays."""
    values = dict(given)
    value = lambda node: values.get(node, node.value)
    for piece in pieces:
        results = _compiled(piece.kind)(*map(value, piece.reads))
        values.update(zip(piece.makes, results, strict=True))
        for node in piece.frees:
            del values[node]
    return [value(node) for node in outputs]


@functools.lru_cache(maxsize=256)
def _compiled(kind: Kind) -> Callable[..., list[Any]]:
    level = LEVEL if jax.default_backend() == "cpu" else None
    return jax.jit(functools.partial(_apply, kind), compiler_options=level)


def _apply(kind: Kind, *given: Any) -> list[Any]:
    values = list(given)
    for primitive, settings, inputs in kind.rows:
        values += evaluate(primitive, settings.params, *(values[n] for n in inputs))
    return [values[n] for n in kind.makes]


def _piece(ops: Sequence[Op], makes: list[Node], frees: list[Node]) -> Piece:
    made = [node for op in ops for node in op.outputs]
    inner = set(made)
    reads = list(dict.fromkeys(n for op in ops for n in op.inputs if n not in inner))
    at = {node: n for n, node in enumerate([*reads, *made])}
    rows = [(op.primitive, _settings(op), tuple(at[node] for node in op.inputs)) for op in ops]
    shapes = tuple((node.shape, str(node.dtype)) for node in reads)
    return Piece(reads, makes, frees, Kind(tuple(rows), shapes, tuple(at[n] for n in makes)))


def _settings(op: Op) -> Settings:
    ordered = tuple(sorted(op.params.items()))
    try:
        hash(ordered)
    except TypeError:
        return Settings(op.params, object())  # equal only to themselves
    return Settings(op.params, ordered)
