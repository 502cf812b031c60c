"""What a masked model costs: parameters, operations, bytes, tiles, seconds.

All but `latency` may be traced, decrease as weights are removed, and read the masks as in eval
mode.

Numbers: experiments/search_budget.py.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.core import Tracer
from jax.typing import DTypeLike

from jsparse._counting import count
from jsparse._flops import count_call
from jsparse._pure import calling
from jsparse._slots import check_module, slots, sparse_parts
from jsparse._sparse import Sparse
from jsparse._surgery import fold
from jsparse._tiles import pool
from jsparse._timing import clock
from jsparse._untraced import explain_abstract_model
from jsparse._values import check_floating, check_function, check_whole
from jsparse.export._shrinking.sizes import Sizes

Cost = Callable[[nnx.Module], Any]
"""From a model to a number of 0 or more: [], traced where the model is."""
Measure = Callable[[nnx.Module | Sizes], Any]
"""The same, also for `prune.units`, which asks about sizes."""


@explain_abstract_model
def parameters(model: nnx.Module | Sizes) -> Array:
    """Number of parameters: the weights kept, and all parameters without a rule.

    Args:
      model: any NNX module.

    Returns:
      [], uint32.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> model = sparsify(nnx.Linear(64, 32, rngs=nnx.Rngs(0)), ("kernel", Top(density=0.25)))
      >>> int(parameters(model))  # 512 weights and 32 biases
      544
    """
    model = _whole(model)
    return sum(map(_kept, sparse_parts(model).values()), jnp.uint32(_dense(model)))


def flops(*inputs: Any, **options: Any) -> Measure:
    """Operations of one call in eval mode, masked weights left out, as `report.costs` counts them.

    Args:
      *inputs: arguments of a call: arrays, `jax.ShapeDtypeStruct`, or shapes of float32.
      **options: further arguments of the call.

    Returns:
      A function of a model, which gives [], float32: two operations for each multiplication.

    Raises:
      ValueError, TypeError: when the function is called: the model cannot take the inputs.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> model = sparsify(nnx.Linear(64, 32, rngs=nnx.Rngs(0)), ("kernel", Top(density=0.25)))
      >>> int(flops((1, 64))(model))
      1024
    """

    def cost(model: nnx.Module | Sizes) -> Array:
        model = _whole(model)
        tally, sparse, dense = count_call(model, inputs, options)
        total = jnp.float32(tally.others + sum(map(tally.of, dense)))
        for path, part in sparse.items():
            uses = tally.uses[path]
            same = tuple(axis for axis, n in enumerate(uses.shape) if n == 1)
            kept = jnp.expand_dims(count(part.read_final_mask() > 0, same), same)
            total += (kept.astype(jnp.float32) * jnp.asarray(uses, jnp.float32)).sum()
        return 2 * total

    return cost


def bytes(dtype: DTypeLike = jnp.float32) -> Measure:
    """Bytes of the parameters, sparse weights as a bitmap and the values kept.

    A weight is stored whole where that takes less.

    Args:
      dtype: in which all parameters are stored.

    Returns:
      A function of a model, which gives [], float32.

    Raises:
      TypeError: dtype is not a floating-point type.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> model = sparsify(nnx.Linear(64, 32, rngs=nnx.Rngs(0)), ("kernel", Top(density=0.25)))
      >>> int(bytes()(model))  # 512 values, 2,048 bits, 32 biases
      2432
    """
    _check_called("bytes", dtype)
    check_floating(dtype=dtype)
    each = jnp.dtype(dtype).itemsize

    def cost(model: nnx.Module | Sizes) -> Array:
        model = _whole(model)
        total = jnp.float32(each * _dense(model))
        for part in sparse_parts(model).values():
            size = math.prod(part.shape)
            packed = each * _kept(part).astype(jnp.float32) + -(-size // 8)
            total += jnp.minimum(packed, each * size)
        return total

    return cost


def tiles(rows: int = 8, columns: int = 128) -> Cost:
    """Tiles of the weights' last two axes that hold a kept weight: what block-sparse kernels read.

    Args:
      rows: of a tile, along the inputs.
      columns: of a tile, along the outputs.

    Returns:
      A function of a model, which gives [], uint32: tiles of the weights that have a rule; those at
      an edge count as whole ones. The models of `prune.units` have no rules.

    Raises:
      ValueError: a number below 1.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Filter, Top
      >>> from jsparse._surgery import sparsify
      >>> rule = Top(density=0.25, unit=Filter())
      >>> model = sparsify(nnx.Linear(64, 512, rngs=nnx.Rngs(0)), ("kernel", rule))
      >>> int(tiles()(model)), int(tiles(8, 1)(model))
      (32, 1024)
    """
    _check_called("tiles", rows)
    check_whole(rows=rows, columns=columns)

    def cost(model: nnx.Module) -> Array:
        model = _whole(model)
        total = jnp.uint32(0)
        for part in sparse_parts(model).values():
            mask = jnp.atleast_2d(part.read_final_mask() > 0).astype(jnp.float32)
            sides = map(min, (rows, columns), mask.shape[-2:])
            total += _number(pool(mask, (*(1,) * (mask.ndim - 2), *sides), jnp.max) > 0)
        return total

    return cost


def latency(
    *inputs: Any,
    form: Callable[[nnx.Module], nnx.Module] = fold,
    calls: int = 20,
    **options: Any,
) -> Measure:
    """Measured seconds of a compiled call in eval mode: the median of some calls.

    It cannot be traced: pass `traced=False` to `search`. Masks alone save no time; pass the form
    that runs. `prune.units` times the smaller models.

    Args:
      *inputs: arguments of a call: arrays, `jax.ShapeDtypeStruct`, or shapes of float32.
      form: makes the plain model to time from the masked one, such as
        `lambda model: jsparse.shrink(jsparse.fold(model), x)[0]`.
      calls: how many are timed.
      **options: further arguments of the call.

    Returns:
      A function of a model, which gives a float.

    Raises:
      TypeError: form is not a function; when the cost is called, the model is traced.
      ValueError, TypeError: calls below 1; when the cost is called, the model cannot take the
        inputs.
    """
    check_function(form=form)
    check_whole(calls=calls)

    def cost(model: nnx.Module | Sizes) -> float:
        model = _whole(model)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(nnx.state(model))):
            raise TypeError("the latency of a traced model cannot be measured; pass traced=False")
        seconds = clock(form(model), *inputs, **options)
        with calling("inputs", (inputs, options)):
            seconds(1)  # compiles
        return float(np.median([seconds(1) for _ in range(calls)]))

    return cost


def _check_called(name: str, first: Any) -> None:
    if isinstance(first, nnx.Module | Sizes):
        raise TypeError(f"{name} makes a cost: pass {name}(), not {name} itself")


def _whole(model: nnx.Module | Sizes) -> nnx.Module:
    """The model; the smaller one for the sizes that `prune.units` asks about."""
    model = model.model() if isinstance(model, Sizes) else model
    check_module(model)
    return model


def _kept(part: Sparse) -> Array:
    """Number of weights kept, []: uint32."""
    return _number(part.read_final_mask() > 0)


def _number(true: Array) -> Array:
    return count(true, tuple(range(true.ndim)))


def _dense(model: nnx.Module) -> int:
    """Number of parameters without a rule."""
    dense = {id(s.value): s.value for s in slots(model) if isinstance(s.value, nnx.Param)}
    return sum(math.prod(np.shape(one[...])) for one in dense.values())
