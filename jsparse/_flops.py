"""Multiplications of a traced computation, by the weight that takes part in them.

Walks a jaxpr. A weight is followed through what keeps its zeros in place (casts, transposes,
reshapes, products with other numbers), into scans and compiled functions, to the matrix products
and convolutions that read it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from jsparse._jaxprs import interpret
from jsparse._pure import by_position, calling, evaluated, pure
from jsparse._slots import slots, sparse_parts
from jsparse._sparse import Sparse
from jsparse._surgery import fold

LOST = -1
"""An axis that is no longer an axis of the weight."""
PACKED = {"csr_product", "csr_convolution", "jsparse_block_forward"}
"""Products with packed weights: the kept values come first, and each is used at each place of the
result (of a convolution also where the window is over the edge)."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Which weight an array is.

    Attributes:
      path: of the weight.
      axes: for each axis of the array the axis of the weight, or LOST.
      turned: axes of the weight that run backwards.
    """

    path: str
    axes: tuple[int, ...]
    turned: frozenset[int] = frozenset()


@dataclasses.dataclass
class Tally:
    """What was counted.

    Attributes:
      shapes: of the weights, by path.
      uses: multiplications of each weight, by path: an array that broadcasts to the weight.
      others: multiplications in products in which neither side is one of the weights.
    """

    shapes: Mapping[str, tuple[int, ...]]
    uses: dict[str, np.ndarray]
    others: float = 0.0

    def of(self, path: str) -> float:
        """Multiplications of all entries of a weight."""
        uses = self.uses[path]
        return float(uses.sum()) * math.prod(self.shapes[path]) / uses.size

    def total(self) -> float:
        """All multiplications."""
        return self.others + sum(map(self.of, self.uses))


class Counted(NamedTuple):
    """The multiplications of one call of a model, and by path each Sparse and other parameter."""

    tally: Tally
    sparse: dict[str, Sparse]
    dense: dict[str, Any]


def count_call(model: nnx.Module, inputs: tuple, options: Mapping[str, Any]) -> Counted:
    """Count one call `model(*inputs, **options)` in eval mode; masks play no part.

    The model is not changed, and its arrays may be traced. Inputs may be shapes.
    """
    model, inputs = by_position(model, inputs, options)
    first: dict[int, str] = {}
    names = {slot.path: first.setdefault(id(slot.value), slot.path) for slot in slots(model)}
    run, variables, kinds = pure(evaluated(fold(model)))
    params = [path for path, kind in kinds.items() if issubclass(kind, nnx.Param)]
    named = {names.get(path, path): variables[path] for path in params}
    weights = {path: x for path, x in named.items() if isinstance(x, jax.Array)}

    def call(values: dict[str, jax.Array], *inputs: Any) -> Any:
        given = {path: values.get(names.get(path, path), x) for path, x in variables.items()}
        return run(given, *inputs)[0]

    with calling("inputs", inputs):
        traced = jax.make_jaxpr(call)(weights, *inputs)
    tally = count(traced, sorted(weights))  # as a dictionary's leaves are
    sparse = sparse_parts(model)
    dense = {path: weight for path, weight in weights.items() if path not in sparse}
    return Counted(tally, sparse, dense)


def count(jaxpr: ClosedJaxpr, paths: Sequence[str]) -> Tally:
    """Count the multiplications of matrix products and convolutions.

    A `while` loop counts as one iteration and a `cond` as its most expensive branch, as how often
    they run is not known in advance. If the computation depends on the platform, the CPU's branch
    is counted on a CPU and the default branch elsewhere.

    The first arguments of the jaxpr are the weights, with these paths.

    Example: a kernel of 3 weights slides over 4 inputs, padded by a 0 on either side to give 4
    outputs. The middle weight meets an input at each of them, the outer ones at 3 (`_windows`), as
    the padding is not multiplied. The following product of 4 outputs by a [4, 3] matrix is 12 more.
      >>> from jax import lax, numpy as jnp
      >>> kernel, matrix, x = jnp.ones((1, 1, 3)), jnp.ones((4, 3)), jnp.ones((1, 1, 4))
      >>> slide = lambda w, x: lax.conv(x, w, (1,), "SAME")
      >>> model = lambda kernel, matrix, x: slide(kernel, x)[0] @ matrix
      >>> tally = count(jax.make_jaxpr(model)(kernel, matrix, x), ["kernel", "matrix"])
      >>> tally.uses["kernel"].ravel().tolist(), tally.of("kernel"), tally.of("matrix")
      ([3.0, 4.0, 3.0], 10.0, 12.0)
    """
    invars = jaxpr.jaxpr.invars
    shapes = {p: _shape(v) for p, v in zip(paths, invars, strict=False)}
    origins = [Origin(path, tuple(range(len(shape)))) for path, shape in shapes.items()]
    tally = _empty(shapes)
    _walk(jaxpr, [*origins, *[None] * (len(invars) - len(origins))], 1, tally)
    return tally


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _empty(shapes: Mapping[str, tuple[int, ...]]) -> Tally:
    return Tally(shapes, {path: np.zeros((1,) * len(shape)) for path, shape in shapes.items()})


def _walk(
    jaxpr: ClosedJaxpr, origins: Sequence[Origin | None], times: int, tally: Tally
) -> list[Origin | None]:
    """Count a jaxpr that runs this many times; return which of its results are weights."""

    def counted(eqn: Any, ins: list[Origin | None], _: tuple) -> list[Origin | None]:
        name = eqn.primitive.name
        nothing: list[Origin | None] = [None] * len(eqn.outvars)
        if name in ("dot_general", "ragged_dot_general"):
            dims = eqn.params.get("dimension_numbers")
            # ragged: each row by the matrix of one group
            dims = dims or eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
            (contracted, _), _ = dims
            depth = math.prod(_shape(eqn.invars[0])[a] for a in contracted)
            uses = math.prod(_shape(eqn.outvars[0])) * depth * times
            _add(tally, _single(ins), uses, {})
        elif name == "conv_general_dilated":
            windows = _windows(eqn)
            spec = eqn.params["dimension_numbers"]
            out, kernel = _shape(eqn.outvars[0]), _shape(eqn.invars[1])
            pairs = out[spec.out_spec[0]] * out[spec.out_spec[1]] * kernel[spec.rhs_spec[1]]
            uses = pairs * math.prod(int(w.sum()) for w in windows.values()) * times
            _add(tally, _single(ins), uses, windows if ins[1] else {})
        elif eqn.params.get("target_name", name) in PACKED:
            values, out = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
            _add(tally, _single(ins), math.prod(values) * math.prod(out[:-1]) * times, {})
        elif inner := list(_inside(eqn.params.values())):
            return _enter(eqn, inner, ins, times, tally)
        elif any(ins):
            return [_followed(eqn, ins), *nothing[1:]]
        return nothing

    return interpret(jaxpr, origins, counted, lambda value, atom: None)


def _single(ins: Sequence[Origin | None]) -> Origin | None:
    """The weight of a product; none where both sides are weights, whose zeros do not add up."""
    found = [origin for origin in ins if origin]
    return found[0] if len(found) == 1 else None


def _add(tally: Tally, origin: Origin | None, uses: float, windows: dict[int, np.ndarray]) -> None:
    """Add multiplications: to a weight, or to the others."""
    if origin is None:
        tally.others += uses
        return
    shape = tally.shapes[origin.path]
    profile = np.ones((1,) * len(shape))
    # a window at an edge uses its outer weights less often
    for axis, often in windows.items():
        own = origin.axes[axis]
        if own == LOST or shape[own] != often.size:
            continue
        often = often[::-1] if own in origin.turned else often
        profile = profile * often.reshape([-1 if a == own else 1 for a in range(len(shape))])
    mean = profile.mean() * math.prod(shape)
    if mean:
        tally.uses[origin.path] = tally.uses[origin.path] + profile * (uses / mean)


def _windows(eqn: Any) -> dict[int, np.ndarray]:
    """By spatial axis of a kernel, at how many places of the output each offset meets an input."""
    params, spec = eqn.params, eqn.params["dimension_numbers"]
    left, kernel, out = (_shape(v) for v in (*eqn.invars, eqn.outvars[0]))
    windows = {}
    for n, axis in enumerate(spec.rhs_spec[2:]):
        size, places = left[spec.lhs_spec[2 + n]], np.arange(out[spec.out_spec[2 + n]])
        spread = params["lhs_dilation"][n]
        offsets = np.arange(kernel[axis]) * params["rhs_dilation"][n] - params["padding"][n][0]
        at = places[None] * params["window_strides"][n] + offsets[:, None]
        inside = (at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)
        windows[axis] = inside.sum(axis=1)
    return windows


SAME = {"convert_element_type", "copy", "copy_p", "reduce_precision", "optimization_barrier"}
ZERO_KEEPING = {"neg", "mul", "div", "abs", "sign", "integer_pow", "tanh", "square"}
MIXING = {"reshape", "slice", "dynamic_slice"}


def _followed(eqn: Any, ins: Sequence[Origin | None]) -> Origin | None:
    """The weight that the result still is, if any."""
    name, params, out = eqn.primitive.name, eqn.params, eqn.outvars[0].aval
    origin = _single(ins)
    if origin is None:
        return None
    axes = origin.axes
    if name in SAME or name in ZERO_KEEPING:
        first = ins[0] is not None or name == "mul"
        return origin if len(axes) == out.ndim and first else None
    if name == "rev":
        turned = frozenset(axes[a] for a in params["dimensions"])
        return dataclasses.replace(origin, turned=origin.turned ^ turned)
    if name == "transpose":
        axes = tuple(axes[a] for a in params["permutation"])
    elif name == "squeeze":
        axes = tuple(a for n, a in enumerate(axes) if n not in params["dimensions"])
    elif name == "broadcast_in_dim":
        at = dict(zip(params["broadcast_dimensions"], axes, strict=True))
        axes = tuple(at.get(n, LOST) for n in range(out.ndim))
    elif name in MIXING and ins[0] is not None:
        axes = (LOST,) * out.ndim
    else:
        return None
    return dataclasses.replace(origin, axes=axes)


def _inside(values: Iterable[Any]) -> Iterable[ClosedJaxpr]:
    """The jaxprs among the parameters of an operation; constants play no part."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value
        elif isinstance(value, Jaxpr):
            yield ClosedJaxpr(value, [None] * len(value.constvars))
        elif isinstance(value, tuple | list):
            yield from _inside(value)


def _enter(
    eqn: Any, inner: list[ClosedJaxpr], ins: list[Origin | None], times: int, tally: Tally
) -> list[Origin | None]:
    """Count an operation that contains jaxprs; return which of its results are weights."""
    match eqn.primitive.name:
        case "scan":
            # what is scanned is read slice by slice: its first axis is gone
            read = [
                o and dataclasses.replace(o, axes=o.axes[len(o.axes) - len(_shape(v)) :])
                for o, v in zip(ins, inner[0].jaxpr.invars, strict=True)
            ]
            _walk(inner[0], read, times * eqn.params["length"], tally)
        case "while":
            first, second = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
            carry = ins[first + second :]
            _walk(eqn.params["cond_jaxpr"], ins[:first] + carry, times, tally)
            own = ins[first : first + second]
            _walk(eqn.params["body_jaxpr"], own + carry, times, tally)
        case "cond" if platforms := eqn.params.get("branches_platforms"):
            # Pallas kernels do not say how often they multiply; the default branch does
            here = ("cpu",) if jax.default_backend() == "cpu" else None
            _walk(inner[platforms.index(here) if here in platforms else -1], ins[1:], times, tally)
        case "cond":
            branches = [_empty(tally.shapes) for _ in inner]
            for branch, part in zip(inner, branches, strict=True):
                _walk(branch, ins[1:], times, part)
            most = max(branches, key=Tally.total)
            tally.others += most.others
            for path, uses in most.uses.items():
                tally.uses[path] = tally.uses[path] + uses
        case _:  # a function over devices, a solver, a kernel: its first jaxpr runs
            body, count = inner[0], len(inner[0].jaxpr.invars)
            known = ins if count == len(ins) else [None] * count
            outs = _walk(body, known, times, tally)
            if len(outs) == len(eqn.outvars):
                return outs
    return [None] * len(eqn.outvars)
