"""Recomputed statistics of batch normalization.

1. Pruning changes what reaches each normalization, so its running mean and variance no longer fit.
2. The weights stay. The model runs on all batches; batch normalization uses the statistics of the
   batch, and everything else is in eval mode: no dropout, the final masks.
3. The new mean and variance are the averages of those of all batches, each with the same weight:

       mean = (m_1 + ... + m_n) / n        var = (v_1 + ... + v_n) / n

No figure is published for models of this library.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._checks import all_finite
from jsparse._pure import Forward, call, calling, taken_apart
from jsparse._slots import check_module, walk_modules
from jsparse._surgery import Model, copied
from jsparse._untraced import outside_jit
from jsparse._values import check_batches, check_function, each_batch
from jsparse._variables import write

TOTALS = ("total_mean", "total_var", "total_calls")


@outside_jit
def recalibrate(model: Model, batches: Iterable[Any], *, forward: Forward = call) -> Model:
    """A copy in which the running statistics of every `nnx.BatchNorm` are recomputed.

    They are the plain averages over the batches, whatever the momentum of the layer and whatever
    they were before: mean = (m_1 + ... + m_n) / n, and the same for the variance of each batch. So
    the order of the batches does not matter, but their size does: a small last batch counts as much
    as any other. Use batches as large as those of training. A layer that is called several times
    averages over all its calls, and one that is never called keeps its statistics.

    Weights, masks, random keys and the mode (train or eval) of the model stay as they are. While
    the statistics are computed, everything but batch normalization is in eval mode.

    Args:
      model: any NNX module, with rules or without.
      batches: of inputs, read once; each new shape is compiled again.
      forward: runs the model on a batch, such as `lambda model, batch: model(batch["image"])`.

    Returns:
      A model that shares nothing with the given one.

    Raises:
      TypeError: the model is not a module; batches is one array; forward is not a function.
      ValueError: the model has no batch normalization, or none that `forward` calls in train mode;
        no batch; a batch that the model does not take; statistics that are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> norm = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> new = recalibrate(norm, [jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])])
      >>> new.mean[...].tolist(), new.var[...].tolist()
      ([3.5], [2.5])

    Reference: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3. They take the
    variance over all samples of the batches as one; the average of variances here is that of
    cumulative moving averages.
    """
    check_module(model)
    check_batches(batches)
    check_function(forward=forward)
    watched = copied(model)
    if not _norms(watched):
        raise ValueError(
            "the model has no nnx.BatchNorm, so there are no running statistics to recompute; "
            "leave recalibrate out (other normalizations have none)"
        )
    watched.eval()
    for layer in _norms(watched).values():
        _add_up_in_place(layer)
    build, variables, _ = taken_apart(watched)
    totals = {path: a for path, a in variables.items() if path.rpartition("/")[2] in TOTALS}

    @jax.jit
    def add(totals: dict[str, Array], variables: dict[str, Any], batch: Any) -> dict[str, Array]:
        merged = build(variables | totals)
        forward(merged, batch)
        after = taken_apart(merged).variables
        return {path: after[path] for path in totals}

    for batch in each_batch(batches):
        with calling("batches", batch):
            totals = add(totals, variables, batch)
    new = copied(model)
    _write(new, build(variables | totals))
    return new


def _norms(model: nnx.Module) -> dict[str, nnx.BatchNorm]:
    """Each batch normalization by its first path."""
    first: dict[int, tuple[str, nnx.BatchNorm]] = {}
    for path, module in walk_modules(model):
        if isinstance(module, nnx.BatchNorm):
            first.setdefault(id(module), (path, module))
    return dict(first.values())


def _add_up_in_place(layer: Any) -> None:
    """Make a layer sum the statistics of its calls, instead of forgetting them."""
    layer.momentum, layer.use_running_average = 0.0, False  # what is left is that of the last call
    for name, old in zip(TOTALS, (layer.mean, layer.var, layer.mean), strict=True):
        # of the shape of the old ones, so that nnx.vmap and nnx.scan split them in the same way
        setattr(layer, name, nnx.BatchStat(jnp.zeros_like(old[...], jnp.float32)))
    for variable in (layer.mean, layer.var):
        write(variable, jnp.nan_to_num(variable[...]))  # 0 times NaN would be NaN
    object.__setattr__(layer, "__class__", _adding(type(layer)))


@functools.cache
def _adding(kind: type) -> type:
    """A class of normalizations that sum; made once, as jax caches facts about each class."""

    def run(self: Any, *args: Any, **named: Any) -> Any:
        output = kind.__call__(self, *args, **named)  # type: ignore[operator]
        given = named.get("use_running_average", args[1] if len(args) > 1 else None)
        if not (self.use_running_average if given is None else given):
            for name, new in zip(TOTALS, (self.mean[...], self.var[...], 1.0), strict=True):
                total = getattr(self, name)
                write(total, total[...] + jnp.asarray(new, jnp.float32))
        return output

    return type(kind.__name__, (kind,), {"__call__": run})


def _write(model: nnx.Module, watched: nnx.Module) -> None:
    """Write the averages into the model."""
    seen = {p: layer for p, layer in _norms(watched).items() if layer.total_calls[...].any()}  # type: ignore[attr-defined]
    if not seen:
        raise ValueError(
            "no nnx.BatchNorm took statistics of a batch: none was called, or all with "
            "use_running_average=True; give a forward that runs the model as in training, such as "
            "forward=lambda model, batch: model(batch, train=True)"
        )
    own = _norms(model)
    for path, layer in seen.items():
        for name, total in (("mean", "total_mean"), ("var", "total_var")):
            variable = getattr(own[path], name)
            average = getattr(layer, total)[...] / jnp.maximum(layer.total_calls[...], 1.0)  # type: ignore[attr-defined]
            if not bool(all_finite(average)):
                raise ValueError(f"{path}/{name} is not finite; look for NaN in the batches")
            write(variable, average.astype(variable[...].dtype))
