"""Pairs of a weight and its mask: where they are in the tree to train, and their revisions.

Masks are the leaves named "mask". The weight of `a/mask` is `a/weight`, as in NNX models, or the
leaf at `a` in the first element of a tuple such as (params, held), as in `jsparse.tree`. Those of
coupled units are in the role at `a`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer

from jsparse._checks import zeros_and_ones
from jsparse._paths import check_pairs, match, path_of
from jsparse._pattern import Role, Weight, Whole
from jsparse._revise.layers import CoupledLayer, Layer
from jsparse._revise.revision import Revision
from jsparse._values import check_is, check_mapping, is_whole, shown
from jsparse.rules._coupled import VECTOR, Coupled, Group, Joint
from jsparse.rules._rule import unit_magnitude
from jsparse.rules._stacked import over_stack


def flatten(tree: Any) -> tuple[list[str], list[Array], Any]:
    """The paths and leaves of a tree, and its structure."""
    pairs, form = jax.tree_util.tree_flatten_with_path(tree)
    return [path_of(keys) for keys, _ in pairs], [leaf for _, leaf in pairs], form


def without_masks(form: Any, leaves: Sequence[Any], masks: set[int]) -> Any:
    """The tree with `optax.MaskedNode` in place of masks, and of variables that hold masks."""
    kept = [_Gone if n in masks else leaf for n, leaf in enumerate(leaves)]
    tree = jax.tree_util.tree_unflatten(form, kept)
    return jax.tree.map(lambda x: optax.MaskedNode() if _is_gone(x) else x, tree, is_leaf=_is_gone)


def without_masks_inside(
    extra: Mapping[str, Any], form: Any, leaves: Sequence[Array], masks: set[int]
) -> dict[str, Any]:
    """Further arguments of an update as the inner transform needs them: without masks.

    A tree with masks loses them. A function of such a tree, such as `value_fn` of a line search,
    gets the masks of the present step back, and what it returns loses them again. The tree to train
    has the structure `form` and these leaves, with masks at these positions.
    """
    bare = jax.tree.structure(without_masks(form, leaves, masks))

    def stripped(tree: Any) -> Any:
        whole = lambda part: jax.tree.structure(part) == form
        strip = lambda part: without_masks(form, jax.tree.leaves(part), masks)
        return jax.tree.map(lambda part: strip(part) if whole(part) else part, tree, is_leaf=whole)

    def filled(tree: Any) -> Any:
        if jax.tree.structure(tree) != bare:
            return tree
        rest = iter(jax.tree.leaves(tree))
        all_leaves = [leaf if n in masks else next(rest) for n, leaf in enumerate(leaves)]
        return jax.tree.unflatten(form, all_leaves)

    def called(function: Any) -> Any:
        return lambda *args, **named: stripped(
            function(*map(filled, args), **{name: filled(one) for name, one in named.items()})
        )

    return {name: called(one) if callable(one) else stripped(one) for name, one in extra.items()}


class _Gone:
    """A placeholder for a mask until it is removed."""


def _is_gone(node: Any) -> bool:
    if hasattr(type(node), "get_metadata"):  # an NNX variable
        return any(leaf is _Gone for leaf in jax.tree.leaves(node))
    return node is _Gone


def matching_leaves(gradients: Any, names: list[str]) -> list[Array]:
    """The leaves of the gradients, which must have the same paths as the tree."""
    found, leaves, _ = flatten(gradients)
    if found != names:
        absent = sorted(set(names) - set(found)) or sorted(set(found) - set(names))
        raise ValueError(
            f"the gradients and the tree to train differ at {absent[0]!r}; masks need gradients "
            "too: for NNX take them with argnums=nnx.DiffState(0, (nnx.Param, jsparse.Mask)); for "
            "other trees differentiate with respect to (params, held)"
        )
    return leaves


def find_layers(
    names: list[str],
    leaves: list[Any],
    revisions: Sequence[tuple[str, Revision]],
    roles: Mapping[str, Role],
) -> list[Layer | CoupledLayer]:
    """Each mask of a flat tree with its weights and its revision.

    Refused are trees without masks, a mask without a weight or of another shape, a pattern without
    a match, and a revision whose unit does not suit its mask.
    """
    _check_not_empty(names)
    place = {name: n for n, name in enumerate(names)}
    found: dict[str, Layer | CoupledLayer] = {}
    for name, m in place.items():
        if name.rpartition("/")[2] != "mask":
            continue
        stem = name.rpartition("/")[0]
        if group := roles.get(stem, Role()).group:
            joint = Joint(*group)
            known = found.get(joint.name)
            masks = (*known.masks, m) if known else (m,)
            masks = tuple(sorted(masks, key=lambda n: jnp.ndim(leaves[n])))
            found[joint.name] = _coupled(joint, masks, place, leaves)
            continue
        beside, inner = f"{stem}/weight".lstrip("/"), stem.partition("/")[2]
        w = place.get(beside, place.get(f"0/{inner}", -1))
        path = stem or "weight" if beside in place else inner
        if w < 0 and name.startswith("0/") and any(other.startswith("1/") for other in names):
            continue  # in (params, held): a parameter with this name
        if w < 0:
            raise ValueError(
                f"the mask {name!r} has no weight: there is neither {beside!r} nor '0/{inner}'. "
                "Keep the two side by side or train (params, held), and give both the same label "
                "under optax.partition; if it is of coupled units, give revise "
                "roles=jsparse.roles(model)"
            )
        if jnp.shape(leaves[w]) != jnp.shape(leaves[m]):
            raise ValueError(
                f"{path}: the mask has shape {jnp.shape(leaves[m])}, but the weight "
                f"{jnp.shape(leaves[w])}; make masks with the rule Held"
            )
        found[path] = Layer(path, w, m, None)
    if not found:
        raise ValueError(
            "the tree to train has no masks; put the rule Held on the weights and build the "
            "optimizer with wrt=(nnx.Param, jsparse.Mask), or train the tuple (params, held); "
            "packed layers have none, and their optimizer is jsparse.PackedOptimizer"
        )
    chosen = match(found, revisions)  # type: ignore[arg-type]
    return [
        layer._replace(by=_fitted(chosen[path], layer, roles)) if path in chosen else layer
        for path, layer in found.items()
    ]


def _check_not_empty(names: list[str]) -> None:
    if not names:
        raise ValueError(
            "the tree to train has no arrays; optax.tree_map_params passes such a tree to find the "
            "trees in a state, and cannot look into revise: give it tx.inner and state.inner, "
            "whose trees have no masks"
        )


def _coupled(
    group: Joint, masks: tuple[int, ...], place: Mapping[str, int], leaves: list[Any]
) -> CoupledLayer:
    """The layer of a group."""
    spans = []
    for path, span in group.spans:
        weight = f"{path}/weight"
        if weight not in place:
            raise ValueError(
                f"the mask of the units of {group.name} is in the tree to train, but their weight "
                f"{path} is not; train all of them or none, and give them the same label under "
                "optax.partition"
            )
        there = leaves[place[weight]].shape[span.axis]
        if there != len(span.units or range(span.width)):
            raise ValueError(
                f"{weight} has length {there} where the roles place the units of {group.name} "
                "in a model of another size: give revise roles=jsparse.roles(model) of this one; "
                "shrink_training does so where revise is the outermost transform, as in "
                "revise(optax.MultiSteps(inner, ...), ...)"
            )
        spans.append((place[weight], span))
    return CoupledLayer(group.name, tuple(spans), masks, None)


def _fitted(by: Any, layer: Layer | CoupledLayer, roles: Mapping[str, Role]) -> Any:
    """The revision with the role of its layer, unless it has its own."""
    coupled, name = isinstance(layer, CoupledLayer), type(by).__name__
    unit = getattr(by, "unit", Weight())
    if coupled != (unit == Group()):
        needed = "unit=Group()" if coupled else "another unit, or couple the model first"
        raise ValueError(f"{layer.path}: {name} has the unit {unit}; give it {needed}")
    if coupled:
        if by.scope != Whole():
            raise ValueError(
                f"{layer.path}: {name} has the scope {by.scope}; the units of a group are all "
                "alike, so give it scope=Whole()"
            )
        return dataclasses.replace(by, unit=Coupled(), role=VECTOR)
    if layer.path not in roles or by.role != Role():
        return by
    return dataclasses.replace(by, role=roles[layer.path])


def check_revisions(revisions: Sequence[Any], roles: Any) -> None:
    """Refuse anything but pairs of a pattern and a revision, and roles by path."""
    check_pairs(revisions, "revision", "trained", "RigL(last=750)")
    what = "a mapping of Roles by path, such as jsparse.roles(model)"
    check_mapping(what, roles=roles)
    for role in roles.values():
        check_is(Role, what, roles=role)


def check_seed(seed: Any) -> None:
    """Refuse anything but a whole number, or an array of one."""
    array = isinstance(seed, jax.Array) and seed.ndim == 0
    whole = is_whole(seed) and 0 <= seed < 2**31
    if not whole and not (array and jnp.issubdtype(seed.dtype, jnp.integer)):
        raise ValueError(f"seed must be a whole number, 0 to 2**31 - 1; got {shown(seed)}")


def check_mask(mask: Any) -> None:
    """Refuse masks of other types than floating ones, and other values than 0 and 1 if known.

    A mask has a gradient, which whole numbers and text do not.
    """
    made = "so make it with Held, jsparse.hold or jsparse.prune"
    kind = mask.dtype if hasattr(mask, "dtype") else np.asarray(mask).dtype
    if not jnp.issubdtype(kind, jnp.inexact):
        raise TypeError(f"a mask to revise has the type of its weight; got {shown(mask)}, {made}")
    if isinstance(mask, Tracer | jax.ShapeDtypeStruct):
        return
    if not bool(zeros_and_ones(mask)):
        raise ValueError(
            f"a mask to revise may contain only 0 and 1; got {shown(mask)} with others, {made}"
        )


def check_start(by: Any, mask: Any) -> None:
    """Refuse masks that keep a part of a unit, if their values are known."""
    if getattr(by, "unit", Weight()) == Weight() or isinstance(mask, Tracer):
        return
    filled = over_stack(partial(unit_magnitude, by), by.role.stack)(mask)
    if not bool(((filled == 0) | (jnp.abs(filled - 1) < 1e-3)).all()):
        raise ValueError(
            f"the mask keeps parts of {by.unit}; start with whole units, as "
            "jsparse.prune.drop_lowest(model, pattern, 0.9, jsparse.prune.noise(key), unit) does"
        )
