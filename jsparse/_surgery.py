"""Surgery on whole models: add rules by path, read the masked weights, remove the rules."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.core import Tracer

from jsparse._bridge import fit_bridges
from jsparse._checks import zeros_and_ones
from jsparse._events import advance_in_place, share_cuts_in_place
from jsparse._paths import match, naming, pairs
from jsparse._roles import fit
from jsparse._score import wide
from jsparse._sharding import beside
from jsparse._slots import (
    Slot,
    check_module,
    check_rngs,
    clear_hidden_in_place,
    refuse_unseen,
    refuse_wrapped,
    ruled_parts,
    slots,
    sparse_parts,
)
from jsparse._sparse import Sparse
from jsparse._untraced import explain_abstract_model, refuse_traced
from jsparse._values import check_mapping, shown
from jsparse._variables import stored
from jsparse.rules._held import Held
from jsparse.rules._keep import Keep, where_it_fits
from jsparse.rules._rule import Rule, Rules, total_cost

Model = TypeVar("Model", bound=nnx.Module)


def sparsify(model: Model, *rules: Rules, rngs: nnx.Rngs | None = None) -> Model:
    """A copy of the model in which each parameter that a pattern matches is a `Sparse`.

    Works on stock layers and on raw Params of any module. A parameter shared between several places
    stays shared, and is matched if any of its paths matches. A parameter that is already sparse
    gets the new rule; `Held()` keeps its mask, as `hold` does.

    Args:
      model: any NNX module; it is not changed.
      *rules: pairs of a regular expression, matched against the whole slash-joined path, and a
        rule, or a list or dict of them. The first match wins; parameters without a match stay
        dense.
      rngs: for rules with a random initial state; by default a fixed key, for repeatable results.

    Returns:
      The sparse copy.

    Raises:
      TypeError: the model is not an nnx.Module, a pair holds no rule, a matched parameter does
        not hold a floating-point array, or rngs cannot give keys for parameters.
      ValueError: no rules; a pattern that matches nothing (near misses are listed); a matched
        parameter that is a scalar or whose shape does not suit the rule, or that is inside
        nnx.WeightNorm or nnx.SpectralNorm, which write weights in each forward pass.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Threshold
      >>> model = sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", Threshold()))
      >>> model.kernel.threshold.shape
      (3,)
    """
    copy = copied(model)
    sparsify_in_place(copy, *rules, rngs=rngs)
    return copy


def sparsify_in_place(model: nnx.Module, *rules: Rules, rngs: nnx.Rngs | None = None) -> None:
    """`sparsify`, applied to the model itself."""
    rngs = nnx.Rngs(0) if rngs is None else rngs
    check_rngs(rngs)
    given = pairs(rules)
    found = [s for s in slots(model) if isinstance(s.value, nnx.Param | Sparse)]
    chosen = match([slot.path for slot in found], given)
    places: dict[int, list[Slot]] = defaultdict(list)  # several where a parameter is shared
    for slot in found:
        if slot.path in chosen:
            refuse_wrapped(slot)
            refuse_unseen(slot, found)
            places[id(slot.value)].append(slot)
    clear_hidden_in_place(slot for shared in places.values() for slot in shared)
    order = {id(rule): n for n, (_, rule) in enumerate(given)}
    rank = lambda slot: order[id(chosen[slot.path])]
    best = {one: min(shared, key=rank) for one, shared in places.items()}
    made = {one: _sparse(slot, chosen[slot.path], rngs.params()) for one, slot in best.items()}
    for slot in found:
        if id(slot.value) in made:
            slot.put(made[id(slot.value)])
    fit_bridges(model)
    share_cuts_in_place(model)


def _sparse(slot: Slot, rule: Rule, key: Array) -> Sparse:
    weight = slot.value.weight if isinstance(slot.value, Sparse) else slot.value
    held = stored(weight)
    if not hasattr(held, "dtype") or len(jax.tree.leaves(held)) != 1:  # a BCOO has two arrays
        raise TypeError(
            f"{slot.path}: a rule needs an array, and this nnx.Param holds "
            f"{type(held).__name__ if hasattr(held, 'dtype') else shown(held)}; exclude it from "
            "the pattern"
        )
    with naming(slot.path):
        if isinstance(slot.value, Sparse) and slot.value.reparameterized:
            raise ValueError(
                f"{type(slot.value.rule).__name__} holds a parameter in place of the weight, which "
                "another rule would misread; fold the model first: sparsify(fold(model), ...)"
            )
        fitting = where_it_fits(fit(rule, slot, weight), weight.shape)
        made = Sparse(weight, fitting, key=key)
    if isinstance(slot.value, Sparse):
        made.set_view(slot.value.deterministic)
        if isinstance(rule, Held):  # with the mask, and the values that its rule gave, as in `hold`
            old, dense = slot.value, made.weight[...]
            mask, read = (beside(a, dense) for a in (old.read_final_mask(), old.read_final()))
            made.mask[...] = mask
            made.weight[...] = jnp.where(mask > 0, read, dense)
    if made.reparameterized and not isinstance(held, Tracer) and not made.weight[...].any():
        warnings.warn(
            f"{slot.path} is all zeros, which {type(rule).__name__} never changes: the gradient of "
            "its parameter is 0 there; use another rule, or another initial value",
            UserWarning,
            stacklevel=4,
        )
    return made


def copied(model: Model) -> Model:
    """A copy that shares no variables and no buffers, so either of the two can be donated."""
    check_module(model)
    copy = nnx.clone(model)
    nnx.update(copy, jax.tree.map(_own, nnx.state(copy)))
    return copy


def _own(leaf: Any) -> Any:
    """A copy of an array; a trace has no buffers to share."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
        return leaf
    if not leaf.is_fully_addressable:  # part of it is on devices of other processes
        return leaf.copy()
    return jax.device_put(leaf, may_alias=False)  # copy() would compile a program for each shape


@explain_abstract_model
def cost(model: nnx.Module) -> Array:
    """The term that the rules add to the loss, []: summed over every Sparse, 0 in a dense model."""
    parts = ruled_parts(model).values()
    return total_cost((part.cost() for part in parts), [wide(part.dtype) for part in parts])


@explain_abstract_model
def masks(model: nnx.Module) -> dict[str, Array]:
    """The mask of each sparse weight by path: [...] like the weight, 1 kept, 0 dropped."""
    return {path: part.read_mask() for path, part in sparse_parts(model).items()}


@explain_abstract_model
def resolve(model: Model) -> Model:
    """A copy in which each Sparse is replaced by its masked weight; gradients flow through it.

    Use it where one pass reads weights many times: before a scan over time, for acting, or for a
    target network. All other variables are shared with the model, so anything that the pass writes
    (batch statistics, counters) is not lost.

    Args:
      model: any NNX module.

    Returns:
      A model of plain layers.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> model = sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", Top(density=0.5)))
      >>> type(resolve(model).kernel).__name__
      'Param'
    """
    return _plain(model, lambda part: part.read())


def _plain(model: Model, read: Callable[[Sparse], Array]) -> Model:
    parts = sparse_parts(model).values()
    dense = {id(p): p.weight.replace(beside(read(p), p.weight[...])) for p in parts}
    shared = {slot.path: dense.get(id(slot.value), slot.value) for slot in slots(model)}
    copy = nnx.clone(model)
    for slot in slots(copy):  # by path: the attributes of a clone are in another order
        slot.put(shared[slot.path])
    fit_bridges(copy)
    return copy


@explain_abstract_model
def fold(model: Model) -> Model:
    """A plain dense copy in which dropped weights are 0; it has no rules and shares nothing.

    Its outputs are those of the model in eval mode, whichever mode the model is in.

    Args:
      model: any NNX module.

    Returns:
      A model of plain layers, ready to save, export or train on without masks.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> model = sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", Top(density=0.5)))
      >>> int((fold(model).kernel[...] == 0).sum())
      6
    """
    return copied(_plain(model, lambda part: part.read_final()))


@explain_abstract_model
def hold(model: Model, new: Mapping[str, Array] | None = None) -> Model:
    """A copy in which each Sparse stores its mask: its own, as in eval mode, or a given one.

    If a rule changes the weights it keeps (gates, soft thresholds), the changed values are stored.
    Weights of coupled units, which shared masks, each get their own. Dropped weights keep their
    values, so that they can grow back; under a reparameterization they become 0.

    Args:
      model: any NNX module.
      new: masks by path, [...] like the weights; weights that are not listed keep their own mask.

    Returns:
      A model in which every rule is `Held`, except that `Keep` remains where all weights are kept.

    Raises:
      TypeError: `new` is not a mapping.
      ValueError: a path that is not that of a sparse weight; a mask with another shape, or with
        values other than 0 and 1.
    """
    copy = copied(model)
    parts = sparse_parts(copy)
    if new is not None:
        check_mapping("masks by path, such as {'kernel': mask}", new=new)
        refuse_traced("hold", model, dict(new))
    new = {} if new is None else dict(new)
    for path in new:
        if path not in parts:
            raise ValueError(
                f"{path!r} is not a sparse weight; available: {', '.join(parts) or 'none'}"
            )
    held = {}
    for path, part in parts.items():
        weight = part.weight[...]
        own = beside(part.read_final_mask(), weight)
        mask = _mask(path, new[path], own.dtype) if path in new else own
        if mask.shape != weight.shape:
            raise ValueError(
                f"{path}: got a mask of shape {mask.shape}; the weight has shape {part.shape}"
            )
        read = beside(part.read_final(), weight)
        part.weight[...] = read if part.reparameterized else jnp.where(own > 0, read, weight)
        if isinstance(part.rule, Keep) and (path not in new or bool(mask.all())):
            continue
        held[id(part)] = Sparse(part.weight, Held(role=part.rule.role), key=jax.random.key(0))
        held[id(part)].mask[...] = beside(mask, weight)
        held[id(part)].set_view(part.deterministic)
    for slot in slots(copy):
        if id(slot.value) in held:
            slot.put(held[id(slot.value)])
    return copy


def _mask(path: str, given: Any, dtype: Any) -> Array:
    """A given mask as an array of 0 and 1."""
    what = "a mask may contain only 0 and 1; compare scores with a threshold first"
    try:
        mask = jnp.asarray(given)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{path}: {what}; got {shown(given)}") from error
    real = mask if jnp.iscomplexobj(mask) or mask.dtype == dtype else mask.astype(dtype)
    if jnp.iscomplexobj(mask) or not bool(zeros_and_ones(real)):
        raise ValueError(f"{path}: {what}; got {shown(mask)}")
    return real


@explain_abstract_model
def advance(model: Model) -> Model:
    """The model after the events of a train step: resets, new samples, temperatures.

    This is the pure form of what `Optimizer.update` does after updating the weights, for train
    steps that split and merge under `jax.jit`:

        model = jsparse.advance(nnx.merge(graphdef, optax.apply_updates(params, updates), rest))

    Args:
      model: with its weights already updated.

    Returns:
      A copy that shares nothing with the model.
    """
    copy = copied(model)
    advance_in_place(copy)
    return copy
