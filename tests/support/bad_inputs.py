"""A good call of every public callable, and wrong values for each kind of argument.

`CALLS` has, by name, a function and its arguments: a good value and a kind. `KINDS` has, by kind,
values that are wrong, and words of which an error names one to say what is allowed. A new public
name adds one line to `CALLS`.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

import jsparse as js

NAN, INF = float("nan"), float("inf")
KEY = jax.random.key(0)
X = jnp.ones((2, 3))
ROWS, CLASSES = np.arange(12.0).reshape(4, 3) % 5, [0, 1, 1, 0]
OTHERS = [None, True, "x", 1j, [1.0], np.ones(2)]
NUMBERS = [*OTHERS, NAN, INF, -INF, Fraction(1, 2)]


class Kind(NamedTuple):
    """An argument of some kind.

    Attributes:
      wrong: values.
      allowed: what an error says is allowed, a regular expression.
      also: what an error may say in place of the argument's name, such as "mask" for "masks".
    """

    wrong: list[Any]
    allowed: str
    also: str = ""


def kernel() -> nnx.Linear:
    """A layer of 3 inputs and 4 outputs."""
    return nnx.Linear(3, 4, rngs=nnx.Rngs(0))


class Two(nnx.Module):
    """Two layers."""

    def __init__(self) -> None:
        self.a, self.b = (nnx.Linear(i, o, rngs=nnx.Rngs(i)) for i, o in ((3, 4), (4, 2)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(nnx.relu(self.a(x)))


def held() -> nnx.Linear:
    return js.sparsify(kernel(), ("kernel", js.Held()))


def nan_later(step: jax.Array) -> jax.Array:
    """0.5 up to step 99, then NaN."""
    return jnp.where(step < 100, 0.5, jnp.nan)


def hump(step: jax.Array) -> jax.Array:
    """0.5 at both ends, 2 in between."""
    return jnp.where((step > 10) & (step < 1000), 2.0, 0.5)


def below(step: jax.Array) -> jax.Array:
    """Below 0."""
    return -0.5 - step


MODELS = [None, 3, "model", np.ones((2, 2)), nnx.Linear, linen.Dense(3), len, {"a": 1}, [kernel()]]
NAMED = [None, 3, "x", [1], {3: 1}, np.ones(2)]
CURVES = [
    *OTHERS,
    0.0,
    1.5,
    NAN,
    nan_later,
    hump,
    lambda step: -0.5,
    lambda: 0.5,
    js.schedule.cubic,
]
KINDS: dict[str, Kind] = {
    "finite": Kind([None, True, "x", 1j, [1.0], NAN, INF, -INF], "finite number"),
    "number": Kind([*NUMBERS, -1.0], "number, 0 or more|0 or more"),
    "positive": Kind([*NUMBERS, -1.0, 0.0], "number above 0"),
    "at least 1": Kind([*NUMBERS, -1.0, 0.5], "number, 1 or more"),
    "at least 1, inf too": Kind([*OTHERS, NAN, -INF, -1.0, 0.5], "number, 1 or more"),
    "fraction": Kind([*NUMBERS, 0.0, -0.5, 1.5], r"in \(0, 1\]"),
    "open fraction": Kind([*NUMBERS, 0.0, -0.5, 1.0], r"in \(0, 1\)"),
    "decay": Kind([*NUMBERS, -0.5, 1.0, 2.0], r"in \[0, 1\)"),
    "share": Kind([*NUMBERS, -0.5, 1.5], r"in \[0, 1\]"),
    "count": Kind([*NUMBERS, 0, -1, 1.5], "whole number"),
    "size": Kind([*NUMBERS, -1, 1.5], "whole number"),
    "amount": Kind([None, True, "x", 1j, NAN, INF, -1, 1.5, -0.5, 12], "number of units|at most"),
    "power": Kind([None, True, "x", 1j, [1.0], NAN], "number"),
    "flag": Kind([None, 0, 1, "yes", 1.0, np.ones(2)], "True or False"),
    "density curve": Kind(CURVES, r"in \(0, 1\]|curve"),
    "beta": Kind([*OTHERS, -1.0, NAN, INF, nan_later, below, lambda: 1.0], "number|curve"),
    "rate": Kind([None, True, "x", 1j, -1.0, NAN, INF, nan_later, optax.adam], "number|curve"),
    "unit": Kind([None, 3, "filter", js.Filter, js.Whole(), js.Role()], "such as|instance"),
    "scope": Kind([None, 3, "whole", js.Whole, js.Filter(), js.Role()], "such as|instance|use Wh"),
    "role": Kind([None, 3, "x", js.Role, (-1,), {"a": js.Role()}], "a Role"),
    "axes": Kind([None, 3, "x", [-1], (True,), (-1.5,), (0,), (-1, -1)], "such as|axis|axes"),
    "function": Kind([None, 3, "relu", dict, np.ones(2)], "function"),
    "function or None": Kind([3, "relu", dict, np.ones(2)], "function"),
    "choice": Kind([None, 3, "x", js.prune.by_layer, js.schedule.uniform], "globally"),
    "model": Kind(MODELS, "nnx.Module"),
    "rules": Kind(
        [None, 3, "kernel", [], {}, [3], [("kernel",)], [("kernel", None)], [("kernel", js.Top)],
         [("(", js.Held())], [("kernle", js.Held())], [(3, js.Held())], {"kernel": 3}],
        "pair|rule|pattern|regular", "pattern",
    ),
    "revisions": Kind(
        [None, 3, "kernel", [], {}, [3], [("a", None)], [("a", js.SET)], {"a": js.Held()}],
        "pair|revision|RigL",
    ),
    "strengths": Kind(
        [None, 3, "kernel", [], {}, [3], [("kernel",)], [("kernel", -1.0)], [("kernel", NAN)],
         [("(", 0.1)], [("kernle", 0.1)], [(3, 0.1)], [("kernel", None)], {"kernel": True}],
        "pair|regular|0 or more|number in|available|nearest", "strength|pattern",
    ),
    "groups": Kind([None, 3, "kernel", [], kernel()], "jsparse.groups"),
    "rule": Kind([None, 3, "top", js.Top, len], "rule"),
    "rngs": Kind([0, "x", KEY, nnx.Rngs, nnx.Rngs(dropout=1)], "nnx.Rngs"),
    "pattern": Kind([None, 3, "(", b"kernel", ["kernel"], "*"], "regular expression"),
    "patterns": Kind([None, 3, "(", "kernle", b"kernel", [], ["kernel", 3]],
                     "regular expression", "pattern"),
    "n of m": Kind([None, 3, "2:4", js.Groups, js.Whole(), js.Filter()], "Groups"),
    "fractions": Kind([None, 0.5, "x", (), (1.5,), (NAN,), (True,), ("a",)],
                      r"tuple of fractions|in \(0, 1\]", "density"),
    "path": Kind([None, 3, [], "", "a\0b", 1.5, {"a": 1}], "path"),
    "folder": Kind([None, 3, [], "", "a\0b", __file__, f"{__file__}/a"], "path"),
    "places": Kind(
        [None, 3, "x", [0.5, 1.0], [0, 9], [-1, 0], [True, False], [[0, 1]]],
        "whole numbers|expected 0 to|for each|for every",
    ),
    "values of links": Kind([None, 3, "x", np.ones(3), ["a", "b"], np.ones((2, 1)), [1j, 2]],
                            "one number for each"),
    "named": Kind(NAMED, "by path|by name|mapping"),
    "masks": Kind([*NAMED[1:], {"kernel": "x"}, {"kernel": jnp.full((3, 4), 0.5)},
                   {"kernel": np.ones((3, 4), complex)}, {"kernel": np.full((3, 4), NAN)}],
                  "by path|0 and 1", "mask"),
    "weights": Kind([*NAMED, {"kernel": "x"}, {"kernel": np.ones((3, 5)), "bias": np.ones(4)},
                     {"kernel": np.ones((3, 4), np.int8), "bias": np.ones(4)}], "by path"),
    "key": Kind([None, 0, "a", 1.5, jax.random.split(KEY), np.ones(2)], "random key"),
    "shape": Kind([None, 3, "ab", (1.5, 2), (-1, 3), (True, 3), [None], np.ones(2)], "tuple"),
    "dtype": Kind([3, "x", int, jnp.int32, [1.0]], "floating-point"),
    "transform": Kind([None, 0.1, "adam", optax.sgd, len], "optax transform"),
    "transform of revise": Kind([None, 0.1, "adam", optax.sgd, optax.sgd(0.1)], "revise"),
    "controls": Kind([None, 3, (1,), [], (js.TargetDensity,), "x"], "tuple"),
    "batches": Kind([None, 3, X, np.ones((2, 3)), "x", {"a": X}, []], "list|batches"),
    "fitting batches": Kind(
        [None, 3, X, "x", {"a": X}, [], [jnp.ones((2, 5))], [{"a": X}], [None]], "list|batches"
    ),
    "fitting shape": Kind([None, 3, "ab", (1.5, 2), (-1, 3), (True, 3), (1, 5)], "tuple|a call"),
    "inputs": Kind([(jnp.ones((2, 5)),), (X, X)], "call of the model"),
    "record": Kind([None, 3, {}, "x", js.export.Record], "a Record"),
    "formats": Kind([None, 3, [js.export.csr()], {"a": 1}, {"a": None}], "by name|function"),
    "format": Kind([None, 3, "csr", js.export.csr, js.export.blocks], "function|call it"),
    "shapes": Kind([3, [3], ("((",), ("a, b", "c"), ("batch, 5",)], "shapes|such as"),
    "joined": Kind([None, 3, "x", js.importance.Joined], "a Joined"),
    "forms": Kind([None, 3, [kernel()], {"a": 1}, {3: kernel()}], "by name|nnx.Module"),
    "tried": Kind([None, 3, "a", np.ones(2), {"score": [1.0]}], "found.tried"),
    "method": Kind([None, 3, "random", js.prune.Random, len], "such as"),
    "restart": Kind([None, 3, "x", js.prune.Rewind, len], "such as|instance"),
    "keep": Kind([None, 3, "runs/a", js.prune.Folder], "Folder"),
    "densities": Kind([None, 0.5, "x", (0.5, 0.7), (1.5,), (NAN,), (True,), ("a",), (0.0,)],
                      r"such as|in \(0, 1\]|decrease"),
    "chain": Kind([None, 3, "kernel", ["x"], []], "paths|available|name the layers", "mask"),
    "folders": Kind([None, 3, "a", [None], [3], []], "path|folder"),
    "seed": Kind([None, True, "x", 1.5, -1, 2**40, np.ones(2)], "whole number"),
    "strides": Kind([None, 0, -1, 1.5, "x", True, (1, 0), (1.5, 1)], "whole number|sizes"),
    "padding": Kind([None, True, 1.5, "mirror", (1,), ((1, 2), 3.5), [(1,) * 3] * 2], "padding"),
    "block": Kind([None, 3, "x", (2.0, 2), (0, 2), (2,), (2, 2, 2), (True, 2)], "tuple"),
    "cuts": Kind([*NAMED, {"a": 1}], "by path|Cuts"),
    "positions": Kind(
        [None, 3, {0: (9,)}, {5: (0,)}, {0: (1, 1)}, {"a": (0,)}, {0: (-1,)}], "position"
    ),
    "steps": Kind([None, 3, "x", ("a",), (NAN,), (-1,), (True,)], "steps|number"),
    "sizes": Kind([*NAMED, {"a": ()}, {"a": 3}, {"a": (-1, 3)}, {"a": (1.5, 3)}], "by name|tuple"),
    "factor": Kind(
        [None, True, "x", 1j, [1.0], NAN, INF, 0.0, -1.0, {}, {3: 1.0}, {"a": 0.0}, {"a": "x"}],
        "number above 0",
    ),
    "links": Kind([True, 3, "masks", ["mask"], np.ones(2)], "or None"),
    "bounds": Kind([None, 3, (1.0,), (1.0, 0.5), (-1.0, 1.0), (NAN, 1.0), "ab"], "norm"),
    "param": Kind([None, 3, np.ones((3, 4)), "x"], "nnx.Param"),
    "equation": Kind([None, 3, "ab", "ab,bc", "ab,b->"], "einsum|->"),
    "plan": Kind([*NAMED, {"kernel": js.Held}], "by path"),
    "states": Kind([*NAMED, {}], "by path|init"),
    "param dtype": Kind([None, 3, "x", int, jnp.int32, [1.0]], "floating-point"),
    "optimizer": Kind([None, 3, optax.sgd(0.1), nnx.Optimizer, kernel], "Optimizer"),
    "accuracy": Kind([*NUMBERS, -0.5, 95.0], "fraction"),
    "two masks": Kind([*NAMED, {}, {"kernel": np.full((3, 4), 0.5)}, {"b": np.ones(3)}],
                      "by path|0 and 1|one side|available|jsparse.masks", "mask"),
    "one mask": Kind([*NAMED, {"kernel": np.full((3, 4), 0.5)}], "by path|0 and 1", "mask"),
    "features": Kind(
        [None, 3, "x", [[1.0]], np.ones(3), np.ones((40, 3), complex), np.full((40, 3), NAN),
         np.full((40, 3), "a"), np.ones((1, 3)), np.ones((40, 0))],
        "rows, features|finite",
    ),
    "targets": Kind(
        [None, 3, "x", ["a"], np.ones((40, 2), int), np.ones(39, int), np.full(40, NAN),
         np.arange(40) - 1, np.zeros(40, int), np.ones((40, 2), complex)],
        r"\[samples|each of the 40 samples|finite|classes",
    ),
    "kernel path": Kind([None, 3, "", "bias", "kernle", ["kernel"]], "kernel of an nnx.Linear"),
    "head": Kind([None, 3, "x", np.ones((3, 4)), js.heads.Point], "a Point"),
    "inputs of a layer": Kind(
        [None, "x", 1.5, [3], [-1], [0.5], True, np.ones((2, 2))], "from 0 to 2"
    ),
    "means": Kind(
        [None, 3, "x", [1.0], [1.0, 2.0, NAN], np.ones((3, 1))], "finite number for each of 3"
    ),
    "output": Kind([None, "x", 1.5, 4, -1, True, [1]], "from 0 to 3"),
    "outputs": Kind([None, 7, "x", [4], [-1], [True], [0.5]], "from 0 to 3"),
    "images": Kind(
        [None, 3, "x", np.ones((40, 2)), np.ones((39, 2, 2)), np.ones((40, 2, 2, 2)),
         np.ones((40, 2, 2), complex)],
        "height, width|each of 40 rows",
    ),
    "names": Kind([None, 3, "abcd", ["a"], [1, 2, 3, 4]], "a list|each of 4"),
    "table": Kind(
        [None, "x", 1j, np.ones(4), np.ones((4, 3, 2)), np.full((4, 3), NAN), np.ones((0, 3))],
        r"\[samples|finite",
    ),
    "transfer targets": Kind(
        [None, 3, "x", [True] * 4, np.ones((4, 1, 1)), [1.0, NAN, 1.0, 1.0], [0.0] * 4, [0, 1, 0],
         [0, 1, 3, 0], [0, 0, 0, 0], [-1, 0, 1, 0]],
        r"\[samples|finite|zeros|sample|classes",
    ),
    "classes": Kind(
        [None, 3, "x", [0.0, 1.0, 0.0, 1.0], [[0, 1, 0, 1]], [0, 1, 0], [-1, 0, 1, 0]],
        r"\[samples|sample|classes",
    ),
    "whole classes": Kind([[0, 1, 3, 0], [0, 0, 0, 0], [[0]], "x"], r"\[samples|sample|classes"),
    "probabilities": Kind(
        [None, "x", np.ones(4), np.ones((4, 2)), np.full((4, 2), NAN), np.array([[1.5, -0.5]] * 4)],
        r"\[samples|finite|softmax",
    ),
    "models": Kind([*NAMED, {}, {"a": 3}, {"a": nnx.Linear}], "by name|nnx.Module|one model"),
    "recalled": Kind([None, 3, "x", np.ones((2, 5)), []], "array"),
    "memory": Kind([None, 3, "x", [np.ones((2, 5))], [X, X[:1]], jnp.ones((2, 2, 5))], "h's shape"),
    "window": Kind([None, "ab", True, 1.5, (1.5, 2), (-1, 3), (True, 3), [None]], "tuple"),
}  # fmt: skip


class Made:
    """A value that is made when a call first needs it, not when the table is imported."""

    def __init__(self, make: Callable[[], Any]):
        self._make = cache(make)

    def __call__(self) -> Any:
        return self._make()


class Call(NamedTuple):
    """A function, good arguments, and their kinds."""

    function: Callable[..., Any]
    good: dict[str, Any]
    kinds: dict[str, str]

    def arguments(self) -> dict[str, Any]:
        """The good arguments, with those that have to be made."""
        return {k: one() if isinstance(one, Made) else one for k, one in self.good.items()}


def call(function: Callable[..., Any], **arguments: tuple[Any, str]) -> Call:
    """A call from pairs of a good value, or what makes it (`Made`), and a kind."""
    good = {name: value for name, (value, _) in arguments.items()}
    return Call(function, good, {name: kind for name, (_, kind) in arguments.items() if kind})
