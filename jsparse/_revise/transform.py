"""The optax transform that runs revisions on a tree.

1. The inner transform sees the weights that are trained and all dense leaves, never a mask; the
   gradient of a weight outside the mask is the dense one, which `Held` gives to the mask.
2. Weights that are not trained stand still: no momentum and no decay moves them.
3. On the steps that a revision names, the mask jumps: its update is the new mask less the old.
   Where the revision says so, weights that leave or enter become 0, and so do their moments.

Masks stay on most steps. `update`, as all of optax, then adds zeros to them; `apply` leaves them
where they are, in one branch with all that a jump changes, which XLA does in place.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.core import Tracer

from jsparse._paths import naming
from jsparse._pattern import Role, Weight
from jsparse._revise.pairs import Layer, check_revisions, find_layers, flatten, matching, without
from jsparse._revise.pause import pausing
from jsparse._revise.revision import Revision
from jsparse.rules._rule import over_stack, unit_magnitude


class Revised(NamedTuple):
    """State of `revise`.

    Attributes:
      steps: train steps done.
      seed: of the random numbers; put another one here for each run of one program.
      inner: the state of the inner transform.
    """

    steps: Array
    seed: Array
    inner: Any


class Revise(optax.GradientTransformationExtraArgs):
    """An optax transform for trees with masks, made by `revise`."""

    @property
    def apply(self) -> Callable[..., tuple[Any, Any]]:
        """(gradients, state, tree, **extra) to (tree, state), `update` and `optax.apply_updates`.

        In one, and faster: masks that stay are left where they are. `jsparse.Optimizer` calls it.
        Weights that are cleared become 0 even where they are not finite.
        """
        return self.update.apply  # type: ignore  # beside `update`: trees rebuild this from fields

    @property
    def revisions(self) -> tuple[tuple[str, Revision], ...]:
        """The pairs that it was made of."""
        return self.update.revisions  # type: ignore


def revise(
    inner: Any,
    *revisions: tuple[str, Revision],
    roles: Mapping[str, Role] = MappingProxyType({}),
    seed: int | Array = 0,
) -> Revise:
    """Train the weights with `inner` and revise the stored masks beside them.

    For NNX models the optimizer is built with `wrt=(nnx.Param, jsparse.Mask)` and the gradients are
    taken with `argnums=nnx.DiffState(0, (nnx.Param, jsparse.Mask))`; Linen users train the tuple
    (params, held). Clipping by a global norm belongs into `inner`: outside it would count the
    gradients of the masks. So does all that scales or clips updates: this is the last one of a
    chain, as masks would be scaled too. `optax.MultiSteps` may wrap this or be wrapped. On steps
    that pause, the state of `inner` stays, so that its schedules count the steps that train.

    Args:
      inner: any optax transform.
      *revisions: pairs of a regular expression, matched against the whole path of a weight, and a
        revision. The first match wins; masks without a match stay as they are.
      roles: role by path, for revisions that give none: `jsparse.roles(model)`, or
        `{path: rule.role for path, rule in plan.items()}`. Needed for stacked layers, and for units
        and scopes of layers whose weight is not [..., inputs, outputs].
      seed: of all random numbers; the same one gives the same masks.

    Returns:
      An optax transform for trees with masks. Its `apply`, which a transform around it does not
      have, is the faster way to use it.

    Raises:
      TypeError: the second of a pair is not a revision.
      ValueError: no pairs or a pattern that matches nothing; when it meets the tree: no masks, a
        mask without a weight, of another shape or with parts of units, gradients without masks.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jsparse import Gradual, revise
      >>> tx = revise(optax.sgd(0.1), (".*", Gradual(density=0.5, last=1)))
      >>> tree = {"weight": jnp.array([3.0, 1.0]), "mask": jnp.ones(2)}
      >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, tree), tx.init(tree), tree)
      >>> optax.apply_updates(tree, updates)["mask"].tolist()
      [1.0, 0.0]

    Reference: Lee et al., JaxPruner, 2023, for sparse training as an optax transform.
    """
    check_revisions(revisions)
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        names, leaves, form = flatten(params)
        layers = find_layers(names, leaves, revisions, roles)
        for layer in layers:
            with naming(layer.path):
                _check_start(layer.by, leaves[layer.mask])
        masks = {layer.mask for layer in layers}
        given = inner.init(without(form, leaves, masks))
        return Revised(jnp.zeros((), jnp.int32), jnp.asarray(seed), given)

    def begin(gradients: Any, state: Revised, params: Any) -> _Run:
        if params is None:
            raise ValueError("revise needs the tree itself: tx.update(gradients, state, tree)")
        names, leaves, form = flatten(params)
        layers = find_layers(names, leaves, revisions, roles)
        given = matching(gradients, names)
        return _Run(inner, layers, form, leaves, given, state.steps + 1, state.seed)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        run = begin(updates, state, params)
        changes, inner_state = run.change(*run.train(state.inner, extra))
        return run.tree(changes), Revised(run.step, state.seed, inner_state)

    def apply(gradients: Any, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        run = begin(gradients, state, params)
        leaves, inner_state = run.apply(*run.train(state.inner, extra))
        return run.tree(leaves), Revised(run.step, state.seed, inner_state)

    update.apply = apply  # type: ignore
    update.revisions = revisions  # type: ignore
    return Revise(init, update)


class _Run(NamedTuple):
    """One step, on flat lists of leaves."""

    inner: Any
    layers: Sequence[Layer]
    form: Any
    leaves: list[Array]
    gradients: list[Array]
    step: Array
    seed: Array

    @property
    def masks(self) -> set[int]:
        return {layer.mask for layer in self.layers}

    @property
    def revised(self) -> list[tuple[Layer, Revision]]:
        return [(layer, layer.by) for layer in self.layers if layer.by]

    def tree(self, leaves: Sequence[Array]) -> Any:
        return jax.tree_util.tree_unflatten(self.form, leaves)

    def train(self, state: Any, extra: Mapping[str, Any]) -> tuple[list[Array], Any]:
        """Updates by the inner transform, 0 for what is not trained and for masks; its state."""
        seen, gradients, trained = list(self.leaves), list(self.gradients), {}
        for _, w, m, by in self.layers:
            mask, weight = self.leaves[m], self.leaves[w]
            on = (mask if by is None else over_stack(by.trained, by.role.stack)(mask, weight)) > 0
            dense = jnp.where(mask > 0, 0.0, self.gradients[m]).astype(gradients[w].dtype)
            gradients[w] = jnp.where(on, gradients[w] + dense, 0.0).astype(gradients[w].dtype)
            seen[w] = jnp.where(on, weight, 0.0).astype(weight.dtype)
            trained[w] = on

        given, weights = (without(self.form, tree, self.masks) for tree in (gradients, seen))
        update = lambda state: self.inner.update(given, state, weights, **extra)
        pauses = [layer for layer, by in self.revised if by.pauses]
        pause = self._due(pauses)
        result, state = pausing(update, state, pause) if pauses else update(state)
        rest = iter(jax.tree.leaves(result))
        updates = [jnp.zeros_like(x) if n in self.masks else next(rest) for n, x in enumerate(seen)]
        for w, on in trained.items():
            updates[w] = jnp.where(on, updates[w], 0.0).astype(updates[w].dtype)
        if pauses:
            updates = [jnp.where(pause, jnp.zeros_like(u), u) for u in updates]
        return updates, state

    def change(self, updates: list[Array], state: Any) -> tuple[list[Array], Any]:
        """The updates and the inner state, with what the revisions that are due change."""
        jumps = self._jumps(lambda w: optax.apply_updates(self.leaves[w], updates[w]))
        new = list(updates)
        for (layer, by), jump in zip(self.revised, jumps, strict=True):
            w, m = layer.weight, layer.mask
            new[m] = jump.astype(self.leaves[m].dtype)
            if by.clears:
                new[w] = jnp.where(jump == 0, new[w], -self.leaves[w]).astype(new[w].dtype)
        return new, self._cleared(state, jumps)

    def apply(self, updates: list[Array], state: Any) -> tuple[list[Array], Any]:
        """The leaves and the inner state after the step."""
        keep = lambda n, leaf: leaf if n in self.masks else optax.apply_updates(leaf, updates[n])
        leaves = [keep(n, leaf) for n, leaf in enumerate(self.leaves)]

        def finish(now: tuple[list[Array], Any]) -> tuple[list[Array], Any]:
            leaves, state = now
            jumps = self._jumps(lambda w: leaves[w])
            new = list(leaves)
            for (layer, by), jump in zip(self.revised, jumps, strict=True):
                w, m = layer.weight, layer.mask
                new[m] = new[m] + jump.astype(new[m].dtype)
                if by.clears:
                    new[w] = jnp.where(jump == 0, new[w], 0.0).astype(new[w].dtype)
            return new, self._cleared(state, jumps)

        due = self._due([layer for layer, _ in self.revised])
        return lax.cond(due, finish, lambda now: now, (leaves, state))

    def _jumps(self, trained: Callable[[int], Any]) -> list[Array]:
        """For each revised layer the new mask less the old one: int8, so that few bytes move.

        Args:
          trained: from the place of a weight to the weight after the step.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), self.step)

        def jump(n: int, layer: Layer, by: Revision) -> Array:
            mask, one = self.leaves[layer.mask], _stacked(by, self.step, jax.random.fold_in(key, n))
            with naming(layer.path):
                weight, gradient = jnp.asarray(trained(layer.weight)), self.gradients[layer.mask]
                return (one(mask, weight, gradient) - mask).astype(jnp.int8)

        stay = lambda layer: jnp.zeros_like(self.leaves[layer.mask], jnp.int8)
        return [  # a branch for each, which takes less memory than one for all
            lax.cond(by.due(self.step), partial(jump, n, layer, by), partial(stay, layer))
            for n, (layer, by) in enumerate(self.revised)
        ]

    def _cleared(self, state: Any, jumps: list[Array]) -> Any:
        """The inner state with moments of 0 for weights that leave or enter."""
        pairs = list(zip(self.revised, jumps, strict=True))
        still = {layer.weight: jump == 0 for (layer, by), jump in pairs if by.clears}
        if not still:
            return state
        all_still = [still.get(n, jnp.ones((), bool)) for n in range(len(self.leaves))]
        kept = without(self.form, all_still, self.masks)
        of_weights = lambda part: _is_over(part, kept)
        return jax.tree.map(
            lambda part: _cleared(part, kept) if of_weights(part) else part,
            state,
            is_leaf=of_weights,
        )

    def _due(self, layers: Sequence[Layer]) -> Array:
        """bool []: whether one of their revisions is due."""
        different = dict.fromkeys(layer.by for layer in layers if layer.by)
        return jnp.any(jnp.array([by.due(self.step) for by in different], bool))


def _check_start(by: Any, mask: Any) -> None:
    """Refuse masks that keep a part of a unit, where they are known."""
    if getattr(by, "unit", Weight()) == Weight() or isinstance(mask, Tracer):
        return
    filled = over_stack(partial(unit_magnitude, by), by.role.stack)(mask)
    if not bool(((filled == 0) | (jnp.abs(filled - 1) < 1e-3)).all()):
        raise ValueError(
            f"the mask keeps parts of {by.unit}; begin with whole units, as "
            "jsparse.prune.drop_lowest(model, pattern, 0.9, jsparse.prune.noise(key), unit) does"
        )


def _stacked(by: Revision, step: Array, key: Array) -> Any:
    """The revision of one step, mapped over stacked layers with keys of their own."""

    def revised(mask: Array, weight: Array, gradient: Array) -> Array:
        shape = mask.shape[: by.role.stack]
        one = lambda m, w, g, k: by(m, w, g, step=step, key=k)
        keys = jax.random.split(key, shape) if shape else key
        return over_stack(one, len(shape))(mask, weight, gradient, keys)

    return revised


def _is_over(part: Any, trained: Any) -> bool:
    """Whether a part of an optax state has an entry, or none, for each leaf of the trained tree.

    `optax.tree_map_params` cannot tell for states that go deeper than that, such as those of sm3.
    """
    if jax.tree_util.all_leaves([part]):
        return False
    try:
        jax.tree.map(lambda *_: None, part, trained, is_leaf=_is_masked)
    except ValueError:
        return False
    return True


def _cleared(moments: Any, kept: Any) -> Any:
    """The moments, 0 where a weight left or entered; those of another shape stay as they are."""

    def clear(moment: Any, kept: Any) -> Any:
        if _is_masked(moment) or jnp.shape(moment) != getattr(kept, "shape", None):
            return moment
        return jnp.where(kept, moment, 0).astype(moment.dtype)

    return jax.tree.map(clear, moments, kept, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
