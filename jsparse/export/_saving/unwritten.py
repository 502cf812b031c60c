"""Which operation of a model is not written as ONNX."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jsparse._pure import examples
from jsparse.export._saving.conversion import converted, run
from jsparse.export._saving.functional import check_outputs_agree
from jsparse.export._saving.operations import every, outputs_of
from jsparse.export._shrinking.source import called, called_at


def first_failure(closed: ClosedJaxpr) -> str:
    """The first operation that fails when it is written alone: its dtypes, place and fault.

    Empty if each is written. Sizes are not free.
    """
    weights = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    tried = set()
    for eqn, source in every(closed):
        avals = [atom.aval for atom in eqn.invars]
        kind = (eqn.primitive.name, str(eqn.params), *map(str, avals))
        if kind in tried:
            continue
        tried.add(kind)
        try:
            _check(*_single_operation(eqn, weights))
        except Exception as error:  # jax2onnx and onnxruntime may raise anything
            read = dict.fromkeys(str(getattr(aval, "dtype", aval)) for aval in avals)
            dtypes = ", ".join(read) or "no input"
            fault = (str(error).splitlines() or [""])[0]
            name, place = eqn.primitive.name, called_at(called(source))
            return f"`{name}` of {dtypes} at {place}: {type(error).__name__}: {fault}"
    return ""


def _single_operation(
    eqn: Any, weights: dict[Any, Any]
) -> tuple[Callable[..., list[Any]], list[Any]]:
    """A function that is one operation, and inputs for it; weights and literals are constants."""
    free = [v for v in eqn.invars if not isinstance(v, Literal) and v not in weights]
    free = list(dict.fromkeys(free))

    def function(*arrays: Any) -> list[Any]:
        at = weights | dict(zip(free, arrays, strict=True))
        return outputs_of(eqn, *(v.val if isinstance(v, Literal) else at[v] for v in eqn.invars))

    specs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in free]
    return function, examples(specs)


def _check(function: Callable[..., list[Any]], inputs: list[Any]) -> None:
    made = converted(function, inputs).SerializeToString()
    if importlib.util.find_spec("onnxruntime"):
        expected = function(*inputs)
        check_outputs_agree(
            list(map(np.asarray, expected)), run(made, inputs), "onnxruntime", expected
        )
