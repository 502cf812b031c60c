"""Remove dead units, whose weights are zeros, from a model with everything that belongs to them.

1. Trace the model and find what is the same for every input (`constants`).
2. Mark every position of every axis as removable; un-mark what an operation needs until nothing
   changes (`liveness`, `couplings`, `contractions`). Inputs and outputs keep their axes.
3. Cut the parameters, move constants into biases, set the sizes that layers store as attributes.
4. Trace the smaller model: it must do the same operations with the same constants, and give the
   same outputs (`verify`). Axes for which it does not (the code fixes their size) are kept.

Reference: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, groups coupled
parameters in the same spirit; here the groups come from the operations alone, without rules for
layers.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from jsparse._paths import listed, match
from jsparse._pure import by_name, by_position, calling, examples, settings
from jsparse._slots import slots
from jsparse._surgery import fold
from jsparse._untraced import outside_jit
from jsparse._values import check_function, shown
from jsparse.export._shrinking.attributes import Mend, stock
from jsparse.export._shrinking.graph import Graph
from jsparse.export._shrinking.plan import Plan
from jsparse.export._shrinking.record import Record
from jsparse.export._shrinking.rescale import Rescale
from jsparse.export._shrinking.verify import apart, rounding
from jsparse.rules._keep import Keep

Model = TypeVar("Model", bound=nnx.Module)


@outside_jit
def shrink(
    model: Model,
    *example_inputs: Any,
    mend: Mend = stock,
    keep: str | Collection[str] = (),
    **options: Any,
) -> tuple[Model, Record]:
    """Remove dead units from a model; return the physically smaller plain model and a record.

    A unit (an output of a layer, a channel, an attention head, a cell of an LSTM) is removed when
    its incoming or all its outgoing weights are zeros and nothing else needs it. Which axes of
    which parameters belong together is read from the traced computation, so any NNX module works.
    Outputs are those of the folded model in eval mode; the constant of a dead unit moves into the
    biases that follow, and an RMS norm gets the epsilon and scale that compensate for its width.
    Inputs and outputs keep their size, as do axes that a layer norm averages over and everything
    that the call in eval mode does not use. The record's `stayed` says, by path of the weight,
    which operation keeps a dead unit, and in which file and line the model calls it.

    Sizes that stock layers store are set to those of the smaller parameters. So is an int that a
    module of your own stores and computes with, where only that one makes the smaller model right;
    a warning and the record's `attributes` name it. Other sizes need `mend`; `stayed` names such
    attributes.

    Args:
      model: any NNX module, sparse or folded; not changed.
      *example_inputs: arguments of a call, a batch of 1 or more, and longer than 1 along axes whose
        length varies. Their values matter only for the comparison of outputs, so shapes do too:
        (4, 20) for float32, or `jax.ShapeDtypeStruct`.
      mend: function from a module with smaller parameters to the sizes that it should store, by
        attribute; called for all modules, inner ones first, and {} for those without any.
      keep: patterns, as in `sparsify`, of weights that count as alive although they are zeros,
        because they will be trained: a new head, the second factor of LoRA. The record's `zeros`
        says what was removed because a weight is all zeros.
      **options: arguments by name: arrays, or settings that are the same at each call.

    Returns:
      (the smaller model, the record from which `rebuild` makes a fresh model of that size).

    Raises:
      TypeError, ValueError: `mend` gives what is not a size, or names no attribute of the module.
      TypeError: keep holds something other than strings.
      ValueError: the smaller model gives other outputs; please report it. A pattern of keep matches
        no parameter, or none that the call uses; or the inputs are of an empty batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> model.layers[0].kernel[...] = model.layers[0].kernel[...].at[:, 2:].set(0.0)
      >>> small, record = shrink(model, jnp.ones((1, 4)))
      >>> small.layers[0].kernel.shape, small.layers[2].in_features
      ((4, 2), 2)
    """
    with settings(mend=mend):
        check_function(mend=mend)
    model, inputs = by_position(model, example_inputs, options)
    inputs, plain = examples(inputs), fold(model)
    with settings(keep=keep):
        alive = alive_paths(plain, keep)
    with calling("example_inputs", inputs):
        plan = Plan(plain, inputs, mend, alive=alive)
    with settings(keep=keep):
        check_called(plan.graph, plain, keep)
    _, small, graph, record = plan.choose(Rescale(plain, plan.graph).made_up)
    if record.cuts:
        check_outputs(plan.graph, graph, {})
    record = dataclasses.replace(record, zeros=plan.zeros(record.cuts))
    return by_name(small) if options else small, record


def check_outputs(full: Graph, small: Graph, values: Mapping[str, np.ndarray]) -> None:
    """Refuse a smaller model with other outputs than one of full size with these variables."""
    off = apart(full.run(values), small.run({}))
    allowed = rounding(full.nodes())  # weights may be more precise than what is computed
    if not off <= allowed:
        raise ValueError(
            f"the smaller model's outputs are off by {off:.1e} of the largest, more than "
            f"{allowed:.1e}; keep the folded model, and please report the model"
        )


def alive_paths(model: nnx.Module, keep: str | Collection[str]) -> frozenset[str]:
    """The parameters that the patterns match, with all paths of shared ones.

    Raises:
      TypeError: keep holds something other than strings.
      ValueError: a pattern that matches no parameter.
    """
    patterns = _patterns(keep)
    if not patterns:
        return frozenset()
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"keep holds patterns of paths, such as ('.*/lora_b',); got {shown(keep)}")
    places = [slot for slot in slots(model) if isinstance(slot.value, nnx.Param)]
    found = match([slot.path for slot in places], [(pattern, Keep()) for pattern in patterns])
    mine = {id(slot.value) for slot in places if slot.path in found}
    return frozenset(slot.path for slot in places if id(slot.value) in mine)


def check_called(graph: Graph, model: nnx.Module, keep: str | Collection[str]) -> None:
    """Refuse a pattern none of whose weights the call uses: keeping them would change nothing.

    Raises:
      ValueError: there is one.
    """
    used = {node.path for op in graph.all_ops for node in op.inputs}
    used.update(node.path for node in graph.outputs)
    for pattern in _patterns(keep):
        if used.isdisjoint(paths := alive_paths(model, pattern)):
            raise ValueError(
                f"keep: the call in eval mode uses no weight that {pattern!r} matches "
                f"({listed(sorted(paths))}); these keep their size anyway: leave the pattern out, "
                "or give inputs with which the model uses them"
            )


def _patterns(keep: Any) -> tuple[Any, ...]:
    return (keep,) if isinstance(keep, str) or not isinstance(keep, Iterable) else tuple(keep)
