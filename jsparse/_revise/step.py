"""One train step with revisions, on flat lists of leaves.

1. The inner transform gets the trained weights and all dense leaves, but no masks. For weights
   outside the mask, the gradient is the dense one, which `Held` passes to the mask.
2. Weights that are not trained are frozen: neither momentum nor decay moves them.
3. On the steps that a revision selects, the update of the mask is the new mask minus the old one.
   If the revision says so, weights that are dropped or grown are set to 0, and so are their
   moments.

On most steps the masks do not change. `update`, like any optax transform, then adds zeros to them;
`apply` does not touch them, as one branch contains everything that a revision changes, and XLA runs
it in place.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jsparse._counting import any_under_vmap
from jsparse._paths import naming
from jsparse._revise.layers import At, CoupledLayer, Layer, intersected, zero_outside
from jsparse._revise.moments import cleared
from jsparse._revise.pairs import without_masks, without_masks_inside
from jsparse._revise.pause import pausing
from jsparse._revise.revision import Revision
from jsparse.rules._stacked import over_stack


class Run(NamedTuple):
    """One train step of a tree with the structure `form`, on flat lists of its leaves.

    `inner` trains the weights. The gradients are empty when the state is initialized.
    """

    inner: Any
    layers: Sequence[Layer | CoupledLayer]
    form: Any
    leaves: list[Array]
    gradients: list[Array]
    step: Array
    seed: Array

    @property
    def masks(self) -> set[int]:
        """Positions of the masks among the leaves."""
        return {mask for layer in self.layers for mask in layer.masks}

    @property
    def revised(self) -> list[tuple[Layer | CoupledLayer, Revision]]:
        """The layers that have a revision, and it."""
        return [(layer, layer.by) for layer in self.layers if layer.by]

    def tree(self, leaves: Sequence[Array]) -> Any:
        """The tree with these leaves."""
        return jax.tree_util.tree_unflatten(self.form, leaves)

    def trained(self) -> At:
        """Where each weight that has a mask is trained."""
        return intersected(layer.over(self._trained(layer), self.leaves) for layer in self.layers)

    def train(self, state: Any, extra: Mapping[str, Any]) -> tuple[list[Array], Any]:
        """Updates and state of the inner transform; updates are 0 for masks and frozen weights."""
        gradients, trained = list(self.gradients), self.trained()
        for layer in self.layers:
            for w, dense in layer.hidden(self.leaves, self.gradients).items():
                gradients[w] = gradients[w] + dense
        seen, given = zero_outside(trained, self.leaves), zero_outside(trained, gradients)
        given, weights = (without_masks(self.form, tree, self.masks) for tree in (given, seen))
        extra = without_masks_inside(extra, self.form, self.leaves, self.masks)
        update = lambda state: self.inner.update(given, state, weights, **extra)
        pauses = [layer for layer, by in self.revised if by.pauses]
        pause = self._due(pauses)
        result, state = pausing(update, state, pause) if pauses else update(state)
        rest = iter(jax.tree.leaves(result))
        updates = [jnp.zeros_like(x) if n in self.masks else next(rest) for n, x in enumerate(seen)]
        updates = zero_outside(trained, updates)
        if pauses:
            updates = [jnp.where(pause, jnp.zeros_like(u), u) for u in updates]
        return updates, state

    def change(self, updates: list[Array], state: Any) -> tuple[list[Array], Any]:
        """The updates and the inner state, with the changes of the revisions that are due."""
        jumps = self._jumps(lambda w: optax.apply_updates(self.leaves[w], updates[w]))
        new = list(updates)
        for (layer, _), jump in zip(self.revised, jumps, strict=True):
            for m, change in layer.jumps(jump, self.leaves).items():
                new[m] = change
        for w, still in self._zeroed(jumps).items():
            new[w] = jnp.where(still, new[w], -self.leaves[w]).astype(new[w].dtype)
        return new, self._cleared(state, jumps)

    def apply(self, updates: list[Array], state: Any) -> tuple[list[Array], Any]:
        """The leaves and the inner state after the step."""
        keep = lambda n, leaf: leaf if n in self.masks else optax.apply_updates(leaf, updates[n])
        leaves = [keep(n, leaf) for n, leaf in enumerate(self.leaves)]

        def finish(now: tuple[list[Array], Any]) -> tuple[list[Array], Any]:
            leaves, state = now
            jumps = self._jumps(lambda w: leaves[w])
            new = list(leaves)
            for (layer, _), jump in zip(self.revised, jumps, strict=True):
                for m, change in layer.jumps(jump, leaves).items():
                    new[m] = new[m] + change
            for w, still in self._zeroed(jumps).items():
                new[w] = jnp.where(still, new[w], 0.0).astype(new[w].dtype)
            return new, self._cleared(state, jumps)

        due = self._due([layer for layer, _ in self.revised])
        return lax.cond(any_under_vmap(due), finish, lambda now: now, (leaves, state))

    def _jumps(self, trained: Callable[[int], Any]) -> list[Array]:
        """The new mask minus the old one for each revised layer: int8, to move few bytes.

        Args:
          trained: position of a weight -> the weight after the step.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), self.step)

        def jump(n: int, layer: Layer | CoupledLayer, by: Revision) -> Array:
            mask, key_here = layer.mask_of(self.leaves), jax.random.fold_in(key, n)
            shape = mask.shape[: by.role.stack]  # stacked layers have separate keys
            keys = jax.random.split(key_here, shape) if shape else key_here
            one = over_stack(lambda m, w, g, k: by(m, w, g, step=self.step, key=k), len(shape))
            with naming(layer.path):
                weight = jnp.asarray(layer.seen(trained))
                moved = one(mask, weight, layer.growth(self.gradients), keys) - mask
                return jnp.where(by.due(self.step), moved, 0).astype(jnp.int8)

        stay = lambda layer: jnp.zeros_like(layer.mask_of(self.leaves), jnp.int8)
        return [  # one branch per layer takes less memory than one for all
            lax.cond(
                any_under_vmap(by.due(self.step)), partial(jump, n, layer, by), partial(stay, layer)
            )
            for n, (layer, by) in enumerate(self.revised)
        ]

    def _trained(self, layer: Layer | CoupledLayer) -> Array:
        """bool, [...] like the mask of a layer: what is trained."""
        mask, by = layer.mask_of(self.leaves), layer.by
        if by is None:
            return mask > 0
        return over_stack(by.trained, by.role.stack)(mask, layer.seen(self.leaves.__getitem__)) > 0

    def _stay(self, jumps: list[Array]) -> list[tuple[Layer | CoupledLayer, Array]]:
        """Where the mask stays as it is, of each layer whose revision clears what it changes."""
        pairs = zip(self.revised, jumps, strict=True)
        return [(layer, jump == 0) for (layer, by), jump in pairs if by.clears]

    def _zeroed(self, jumps: list[Array]) -> At:
        """Where the weights keep their values; elsewhere they become 0."""
        return intersected(layer.closing(stay, self.leaves) for layer, stay in self._stay(jumps))

    def _cleared(self, state: Any, jumps: list[Array]) -> Any:
        """The inner state, with moments of 0 for weights that are dropped or grown."""
        still = intersected(layer.over(stay, self.leaves) for layer, stay in self._stay(jumps))
        if not still:
            return state
        all_still = [still.get(n, jnp.ones((), bool)) for n in range(len(self.leaves))]
        kept = without_masks(self.form, all_still, self.masks)
        return cleared(state, kept)

    def _due(self, layers: Sequence[Layer | CoupledLayer]) -> Array:
        """bool []: whether a revision of these layers is due."""
        different = dict.fromkeys(layer.by for layer in layers if layer.by)
        return jnp.any(jnp.array([by.due(self.step) for by in different], bool))
