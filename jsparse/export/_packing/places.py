"""Places of links, drawn or given, in the order of `CsrArrays`: no dense matrix is ever made.

Numbers are drawn until enough are distinct, which gives every set of places the same chance; where
more than half are kept, those that are not kept are drawn instead.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jsparse._random import numpy_generator
from jsparse._values import shown
from jsparse.export._packing.formats import starts_of
from jsparse.export._packing.structure import CsrSizes


def per_output(inputs: int, outputs: int, links: int, key: Array) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) where each output has equally many links, at places drawn uniformly."""
    if links > inputs:
        raise ValueError(
            f"links={links}, and an output has at most one for each of {inputs} inputs; give fewer"
        )
    rows = _distinct(_numbers(key), outputs, links, inputs)
    return rows.ravel(), np.repeat(np.arange(outputs), links)


def uniform_places(
    inputs: int, outputs: int, kept: int, key: Array
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of `kept` links, at places drawn uniformly from the whole matrix."""
    columns, rows = np.divmod(_distinct(_numbers(key), 1, kept, inputs * outputs)[0], inputs or 1)
    return rows, columns


def in_order(
    rows: np.ndarray, columns: np.ndarray, sizes: CsrSizes
) -> tuple[np.ndarray, Array, Array]:
    """Links as they are stored: by group of inputs, then by output, then by input.

    Returns:
      (the order of the links, their indices and starts as in `CsrArrays`).

    Raises:
      ValueError: rows and columns of different lengths, a place outside the matrix, or one given
        twice.
    """
    sides = {"rows": (rows, sizes.inputs), "columns": (columns, sizes.outputs)}
    rows, columns = (_inside(name, *side) for name, side in sides.items())
    if rows.shape != columns.shape:
        raise ValueError(
            f"{rows.size} rows and {columns.size} columns; give one of each for every link"
        )
    group, indices = np.divmod(rows, sizes.width)
    parts = group * sizes.outputs + columns
    order = np.argsort(parts * sizes.width + indices, kind="stable")
    rows, columns = rows[order], columns[order]
    twice = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])
    if twice.any():
        at = int(twice.argmax())
        raise ValueError(
            f"the link from input {rows[at]} to output {columns[at]} occurs twice; give each "
            "place once, and add the values of duplicate links"
        )
    starts = starts_of(np.bincount(parts, minlength=sizes.parts))
    return order, jnp.asarray(indices[order].astype(np.uint16)), starts


def whole_numbers(name: str, given: Any) -> np.ndarray:
    """A vector of whole numbers."""
    found = np.asarray(given)
    if found.ndim != 1 or not (np.issubdtype(found.dtype, np.integer) or not found.size):
        raise TypeError(
            f"{name} must be a vector of whole numbers, one for each link; got {shown(given)}"
        )
    return found


def _inside(name: str, found: np.ndarray, end: int) -> np.ndarray:
    """The same numbers in int64, which wraps numbers that do not fit: checked first."""
    wrong = (found < 0) | (found >= end)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"{name}[{at}] is {found[at]}, expected 0 to {end - 1}")
    return found.astype(np.int64)


def _numbers(key: Array) -> np.random.Generator:
    if isinstance(key, Tracer):
        raise TypeError(
            "key is traced, and places are drawn in NumPy; make the layer outside of jax.jit, "
            "nnx.jit, vmap and eval_shape"
        )
    return numpy_generator(key)


def _distinct(numbers: np.random.Generator, rows: int, size: int, end: int) -> np.ndarray:
    """int64 [rows, size]: in each row distinct numbers below `end`, ascending, uniformly drawn."""
    if 2 * size > end:
        return _others(_distinct(numbers, rows, end - size, end), end)
    drawn = np.sort(numbers.integers(end, size=(rows, size)), axis=1)
    while (again := drawn[:, 1:] == drawn[:, :-1]).any():
        where = np.nonzero(again.any(axis=1))[0]
        part, twice = drawn[where], again[where]
        part[:, 1:][twice] = numbers.integers(end, size=int(twice.sum()))
        drawn[where] = np.sort(part, axis=1)
    return drawn


def _others(drawn: np.ndarray, end: int) -> np.ndarray:
    """The numbers below `end` that are not in each row; more than half of them are."""
    free = np.ones((len(drawn), end), bool)
    np.put_along_axis(free, drawn, values=False, axis=1)
    return np.nonzero(free)[1].reshape(len(drawn), -1)
