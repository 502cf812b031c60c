"""The optax transform that runs revisions on a tree.

1. The inner transform sees the weights that are trained and all dense leaves, never a mask; the
   gradient of a weight outside the mask is the dense one, which `Held` gives to the mask.
2. Weights that are not trained stand still: no momentum and no decay moves them.
3. On the steps that a revision names, the mask jumps: its update is the new mask less the old.
   Where the revision says so, weights that leave or enter become 0, and so do their moments.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.core import Tracer

from jsparse.pattern import Role, Weight
from jsparse.revise.pairs import Layer, check_revisions, find_layers, flatten, matching, without
from jsparse.revise.revision import Revision
from jsparse.rules.rule import over_stack, unit_magnitude
from jsparse.tree import naming


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


def revise(
    inner: Any,
    *revisions: tuple[str, Revision],
    roles: Mapping[str, Role] = MappingProxyType({}),
    seed: int | Array = 0,
) -> optax.GradientTransformationExtraArgs:
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
      An optax transform for trees with masks.

    Raises:
      TypeError: the second of a pair is not a revision.
      ValueError: no pairs or a pattern that matches nothing; when it meets the tree: no masks, a
        mask without a weight, of another shape or with parts of units, gradients without masks.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jsparse.revise import Gradual, revise
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

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("revise needs the tree itself: tx.update(gradients, state, tree)")
        names, leaves, form = flatten(params)
        layers = find_layers(names, leaves, revisions, roles)
        step = state.steps + 1
        run = _Run(inner, layers, form, leaves, matching(updates, names), step, state.seed)
        changes, inner_state = run.change(*run.train(state.inner, extra))
        return jax.tree_util.tree_unflatten(form, changes), Revised(step, state.seed, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


class _Run(NamedTuple):
    """One update, on flat lists of leaves."""

    inner: Any
    layers: Sequence[Layer]
    form: Any
    leaves: list[Array]
    gradients: list[Array]
    step: Array
    seed: Array

    def train(self, state: Any, extra: Mapping[str, Any]) -> tuple[list[Array], Any]:
        """Updates by the inner transform, 0 for what is not trained and for masks; its state."""
        seen, gradients, masks, trained = list(self.leaves), list(self.gradients), set(), {}
        for _, w, m, by in self.layers:
            mask, weight = self.leaves[m], self.leaves[w]
            on = (mask if by is None else over_stack(by.trained, by.role.stack)(mask, weight)) > 0
            dense = jnp.where(mask > 0, 0.0, self.gradients[m]).astype(gradients[w].dtype)
            gradients[w] = jnp.where(on, gradients[w] + dense, 0.0).astype(gradients[w].dtype)
            seen[w] = jnp.where(on, weight, 0.0).astype(weight.dtype)
            masks.add(m)
            trained[w] = on

        given = without(self.form, gradients, masks)
        result, new = self.inner.update(given, state, without(self.form, seen, masks), **extra)
        rest = iter(jax.tree.leaves(result))
        updates = [jnp.zeros_like(x) if n in masks else next(rest) for n, x in enumerate(seen)]
        for w, on in trained.items():
            updates[w] = jnp.where(on, updates[w], 0.0).astype(updates[w].dtype)
        pausing = [layer for layer in self.layers if layer.by and layer.by.pauses]
        if not pausing:
            return updates, new
        # selected, not branched: so all that is done to a weight stays one loop over it
        pause = self._due(pausing)
        updates = [jnp.where(pause, jnp.zeros_like(u), u) for u in updates]
        return updates, jax.tree.map(lambda old, now: jnp.where(pause, old, now), state, new)

    def change(self, updates: list[Array], state: Any) -> tuple[list[Array], Any]:
        """The updates and the inner state after the revisions that are due."""
        revised = [(layer, layer.by) for layer in self.layers if layer.by]
        key = jax.random.fold_in(jax.random.key(self.seed), self.step)

        def jump() -> list[Array]:
            jumps = []
            for n, ((path, w, m, _), by) in enumerate(revised):
                weight, mask = self.leaves[w], self.leaves[m]
                if not by.pauses:
                    weight = jnp.asarray(optax.apply_updates(weight, updates[w]))
                with naming(path):
                    chosen = _stacked(by, self.step, jax.random.fold_in(key, n))(
                        mask, weight, self.gradients[m]
                    )
                chosen = jnp.where(by.due(self.step), chosen, mask)
                jumps.append((chosen - mask).astype(jnp.int8))  # so that few bytes leave the branch
            return jumps

        def stay() -> list[Array]:
            return [jnp.zeros_like(self.leaves[m], jnp.int8) for (_, _, m, _), _ in revised]

        if not revised:
            return updates, state
        jumps = lax.cond(self._due([layer for layer, _ in revised]), jump, stay)
        new, still = list(updates), [jnp.ones((), bool)] * len(updates)
        for ((_, w, m, _), by), change in zip(revised, jumps, strict=True):
            new[m] = change.astype(self.leaves[m].dtype)
            if by.clears:
                still[w] = change == 0
                new[w] = jnp.where(still[w], updates[w], -self.leaves[w]).astype(updates[w].dtype)
        if any(by.clears for _, by in revised):
            clean = without(self.form, still, {layer.mask for layer in self.layers})
            state = optax.tree_utils.tree_map_params(
                self.inner, _cleared, state, clean, is_leaf=_is_masked
            )
        return new, state

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


def _cleared(moment: Any, kept: Any) -> Any:
    """A moment, 0 where its weight left or entered; those of another shape stay as they are."""
    if _is_masked(moment) or _is_masked(kept) or jnp.shape(moment) != kept.shape:
        return moment
    return jnp.where(kept, moment, 0).astype(moment.dtype)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
