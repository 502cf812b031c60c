"""Whole models: put rules on them by path, read them, take the rules off again."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._paths import match, naming
from jsparse._pattern import Role
from jsparse._sharding import beside
from jsparse._slots import Slot, slots, sparse_parts
from jsparse._sparse import Sparse
from jsparse.rules._held import Held
from jsparse.rules._keep import Keep
from jsparse.rules._rule import Rule
from jsparse.rules._shared_cut import share_cuts

Model = TypeVar("Model", bound=nnx.Module)


def sparsify(model: Model, *rules: tuple[str, Rule], rngs: nnx.Rngs | None = None) -> Model:
    """A copy of the model in which each parameter that a pattern matches is a `Sparse`.

    Works on stock layers and on raw Params of any module. A parameter that is shared between
    places stays shared; it counts as matched if any of its paths is. A parameter that is sparse
    already gets the new rule.

    Args:
      model: any NNX module; left as it is.
      *rules: pairs of a regular expression, matched against the whole slash-joined path, and a
        rule. The first match wins; parameters without a match stay dense.
      rngs: for rules whose state starts at random; a fixed key if not given, so results repeat.

    Returns:
      The sparse copy.

    Raises:
      TypeError: not an nnx.Module, not a rule, or a matched parameter is not floating.
      ValueError: no rules; a pattern that matches nothing (near misses are listed); a matched
        parameter that is a scalar or whose shape does not suit the rule.

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


def sparsify_in_place(
    model: nnx.Module, *rules: tuple[str, Rule], rngs: nnx.Rngs | None = None
) -> None:
    """`sparsify`, done to the model itself."""
    found = [s for s in slots(model) if isinstance(s.value, nnx.Param | Sparse)]
    chosen = match([slot.path for slot in found], rules)
    rngs = nnx.Rngs(0) if rngs is None else rngs
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs is {rngs!r}; give nnx.Rngs, such as nnx.Rngs(0)")
    order = {id(rule): n for n, (_, rule) in enumerate(rules)}
    best: dict[int, Slot] = {}
    for slot in found:
        if slot.path in chosen:
            now = best.setdefault(id(slot.value), slot)
            if order[id(chosen[slot.path])] < order[id(chosen[now.path])]:
                best[id(slot.value)] = slot
    made = {one: _sparse(slot, chosen[slot.path], rngs.params()) for one, slot in best.items()}
    for slot in found:
        if id(slot.value) in made:
            slot.put(made[id(slot.value)])
    share_cuts_in_place(model)


def _sparse(slot: Slot, rule: Rule, key: Array) -> Sparse:
    weight = slot.value.weight if isinstance(slot.value, Sparse) else slot.value
    with naming(slot.path):
        if isinstance(slot.value, Sparse) and slot.value.reparameterised:
            raise ValueError(
                f"{type(slot.value.rule).__name__} holds a parameter in place of the weight, which "
                "another rule would misread; fold the model first: sparsify(fold(model), ...)"
            )
        return Sparse(weight, fit(rule, slot, weight), key=key)


def fit(rule: Rule, slot: Slot, weight: nnx.Param) -> Rule:
    """The rule with the role that the layer gives its weight.

    Args:
      rule: any rule; a role other than the default stays as it is.
      slot: where the weight lies.
      weight: [...].

    Returns:
      The rule, or a copy with another role.
    """
    if rule.role != Role():
        return rule
    role = dataclasses.replace(
        role_of(slot.parent, slot.key, weight.ndim), recurrent=slot.recurrent
    )
    return dataclasses.replace(rule, role=role)  # type: ignore[type-var]


def role_of(layer: Any, key: str | int, ndim: int) -> Role:
    """The role of a stock layer's weight of rank `ndim`; else [spatial, input, output].

    Leading axes beyond the layer's own stack whole layers, as `nnx.vmap` and `nnx.scan` make them
    by default; for a stack along another axis give the rule a `Role` of your own.
    """
    if key == "bias" and hasattr(layer, "kernel"):
        return Role(inputs=(), stack=role_of(layer, "kernel", layer.kernel.ndim).stack)
    match layer:
        case nnx.Linear() | nnx.Embed():
            role, layer_ndim = Role(), 2
        case nnx.Conv():
            role, layer_ndim = Role(), len(layer.kernel_size) + 2
        case nnx.ConvTranspose():
            role = Role(outputs=(-2,), inputs=(-1,)) if layer.transpose_kernel else Role()
            layer_ndim = len(layer.kernel_size) + 2
        case nnx.LinearGeneral():
            outs, ins = len(layer.out_features), len(layer.in_features)
            # the projections of attention: several outputs are [heads, width], or several inputs
            heads = (-outs,) if outs > 1 else (-outs - ins,) if ins > 1 else ()
            layer_ndim = len(getattr(layer, "batch_axis", ())) + outs + ins
            batch = tuple(range(-layer_ndim, -outs - ins))
            role = Role(
                outputs=batch + tuple(range(-outs, 0)),
                inputs=tuple(range(-outs - ins, -outs)),
                heads=heads,
            )
        case nnx.Einsum():
            layer_ndim = len(layer.kernel_shape)
            role = _einsum_role(layer.einsum_str, layer_ndim)
        case _:
            return Role()
    return dataclasses.replace(role, stack=max(0, ndim - layer_ndim))


def _einsum_role(equation: str, ndim: int) -> Role:
    """Axes of the kernel that reach the result are outputs, the rest are summed: inputs."""
    operands, result = equation.replace(" ", "").split("->")
    kernel = operands.split(",")[1]
    axes = {n - ndim: letter in result for n, letter in enumerate(kernel.replace("...", ""))}
    return Role(
        outputs=tuple(a for a, kept in axes.items() if kept),
        inputs=tuple(a for a, kept in axes.items() if not kept),
    )


def copied(model: Model) -> Model:
    """A copy that shares neither variables nor buffers, so that donating one leaves the other."""
    copy = nnx.clone(model)
    own = lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf
    nnx.update(copy, jax.tree.map(own, nnx.state(copy)))
    return copy


def cost(model: nnx.Module) -> Array:
    """What the rules add to the loss, []: the sum over each Sparse; 0 for a dense model."""
    total = jnp.zeros(())
    for part in sparse_parts(model).values():
        total = total + part.cost()
    return total


def masks(model: nnx.Module) -> dict[str, Array]:
    """The mask of each sparse weight by path: [...] as the weight, 1 kept, 0 not."""
    return {path: part.read_mask() for path, part in sparse_parts(model).items()}


def resolve(model: Model) -> Model:
    """A copy in which each Sparse is read once; gradients flow through it.

    For weights that are read many times in one pass: before a scan over time, for acting, or for a
    target network. All other variables are shared with the model, so that what the pass writes
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
    return _plain(model, Sparse.read)


def _plain(model: Model, read: Callable[[Sparse], Array]) -> Model:
    parts = sparse_parts(model).values()
    dense = {id(p): p.weight.replace(beside(read(p), p.weight[...])) for p in parts}
    shared = {slot.path: dense.get(id(slot.value), slot.value) for slot in slots(model)}
    copy = nnx.clone(model)
    for slot in slots(copy):  # by path: a clone has its attributes in another order
        slot.put(shared[slot.path])
    return copy


def fold(model: Model) -> Model:
    """A plain dense copy with zeros in place: no rule left, nothing shared.

    The outputs are those of the model in eval mode: nothing is drawn, whichever mode it is in.

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
    return copied(_plain(model, Sparse.read_final))


def hold(model: Model, new: Mapping[str, Array] | None = None) -> Model:
    """A copy in which each Sparse keeps a stored mask: its own, as in eval mode, or the one given.

    Where a rule changes what it keeps (gates, soft thresholds) the weight takes that value. What is
    not kept stays what it is, for masks to grow back; 0 under a reparameterisation.

    Args:
      model: any NNX module.
      new: masks by path, [...] as the weights; paths left out keep their own mask.

    Returns:
      A model whose rules are all `Held`, or `Keep` where they were and all is kept.

    Raises:
      TypeError: `new` is not a mapping.
      ValueError: a path that names no sparse weight; a mask of another shape, or not of 0 and 1.
    """
    copy = copied(model)
    parts = sparse_parts(copy)
    if new is not None and not isinstance(new, Mapping):
        raise TypeError(
            f"hold takes masks by path, such as {{'kernel': mask}}; got {type(new).__name__}"
        )
    new = {} if new is None else dict(new)
    for path in new:
        if path not in parts:
            raise ValueError(
                f"{path!r} is no sparse weight; there are: {', '.join(parts) or 'none'}"
            )
    held = {}
    for path, part in parts.items():
        weight = part.weight[...]
        own = beside(part.read_final_mask(), weight)
        mask = jnp.asarray(new.get(path, own), own.dtype)
        if mask.shape != weight.shape:
            raise ValueError(
                f"{path}: got a mask of shape {mask.shape}; the weight has shape {part.shape}"
            )
        if path in new and not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                f"{path}: a mask holds 0 and 1 only; compare scores with a threshold first"
            )
        read = beside(part.read_final(), weight)
        part.weight[...] = read if part.reparameterised else jnp.where(own > 0, read, weight)
        if isinstance(part.rule, Keep) and (path not in new or bool(mask.all())):
            continue
        held[id(part)] = Sparse(part.weight, Held(role=part.rule.role), key=jax.random.key(0))
        held[id(part)].mask[...] = beside(mask, weight)
    for slot in slots(copy):
        if id(slot.value) in held:
            slot.put(held[id(slot.value)])
    return copy


def advance(model: Model) -> Model:
    """The model after the events of a train step: resets, new samples, temperatures.

    The pure form of what `Optimizer.update` does once the weights are updated, for train steps with
    split and merge under `jax.jit`:

        model = jsparse.advance(nnx.merge(graphdef, optax.apply_updates(params, updates), rest))

    Args:
      model: with its weights updated.

    Returns:
      A copy that shares nothing with the model.
    """
    copy = copied(model)
    advance_in_place(copy)
    return copy


def advance_in_place(model: nnx.Module) -> None:
    """`advance`, written into the model's own variables."""
    for part in sparse_parts(model).values():
        part.set_state(part.advanced())
    share_cuts_in_place(model)


def share_cuts_in_place(model: nnx.Module) -> None:
    """Cut a whole model anew where its units compete: weights were set, or layers joined."""
    parts = [part for part in sparse_parts(model).values() if "cut" in part.state_names]
    shared = share_cuts(
        [part.rule for part in parts],
        [part.state for part in parts],
        [part.score() for part in parts],
    )
    for part, state in zip(parts, shared, strict=True):
        part.set_state(state)
