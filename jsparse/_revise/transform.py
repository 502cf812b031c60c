"""The optax transform that runs revisions on a tree.

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
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jsparse._counting import anywhere
from jsparse._paths import naming, pairs
from jsparse._pattern import Role
from jsparse._revise.layers import At, CoupledLayer, Layer, both, only
from jsparse._revise.moments import cleared
from jsparse._revise.pairs import (
    check_mask,
    check_revisions,
    check_seed,
    check_start,
    find_layers,
    flatten,
    inside,
    matching,
    stacked,
    without,
)
from jsparse._revise.pause import pausing
from jsparse._revise.revision import Revision, Revisions
from jsparse._values import check_transform
from jsparse.rules._stacked import over_stack


class Revised(NamedTuple):
    """State of `revise`.

    Attributes:
      steps: number of train steps so far.
      seed: seed of the random numbers; replace it to vary it between runs of one program.
      inner: state of the inner transform.
    """

    steps: Array
    seed: Array
    inner: Any


class Revise(optax.GradientTransformationExtraArgs):
    """An optax transform for trees with masks, made by `revise`."""

    @property
    def apply(self) -> Callable[..., tuple[Any, Any]]:
        """(gradients, state, tree, **extra) -> (tree, state): `update` and `apply_updates` in one.

        This is faster, because unchanged masks are not touched. `jsparse.Optimizer` uses it.
        Cleared weights become 0 even if they are not finite.
        """
        return self.update.apply  # type: ignore  # on `update`: trees rebuild this object

    @property
    def inner(self) -> Any:
        """The transform that trains the weights."""
        return self.update.inner  # type: ignore

    @property
    def around(self) -> Callable[..., "Revise"]:
        """(inner, roles) -> the same revisions around another transform; roles are optional."""
        return self.update.around  # type: ignore

    @property
    def revisions(self) -> tuple[tuple[str, Revision], ...]:
        """The pairs of patterns and revisions."""
        return self.update.revisions  # type: ignore

    @property
    def seed(self) -> int | Array:
        """The seed of the random numbers."""
        return self.update.seed  # type: ignore

    @property
    def roles(self) -> Mapping[str, Role]:
        """Role by path, for revisions without a role."""
        return self.update.roles  # type: ignore


def revise(
    inner: Any,
    *revisions: Revisions,
    roles: Mapping[str, Role] = MappingProxyType({}),
    seed: int | Array = 0,
) -> Revise:
    """Train the weights with `inner`, and revise their stored masks.

    For NNX models, build the optimizer with `wrt=(nnx.Param, jsparse.Mask)` and take gradients with
    `argnums=nnx.DiffState(0, (nnx.Param, jsparse.Mask))`; with Linen, train the tuple (params,
    held). Put clipping by a global norm, and all else that scales or clips updates, into `inner`:
    `revise(optax.chain(...), ...)`. Outside, it would count the gradients of the masks, or change
    the masks. Only MultiSteps, apply_if_finite, masked, partition and inject_hyperparams of optax
    may be around it. Steps that pause leave the state of `inner` as it is, so its schedules count
    only the steps that train.

    Args:
      inner: any optax transform.
      *revisions: pairs of a regular expression, matched against the whole path of a weight, and a
        revision, or a list or dict of them. The first match wins; masks without a match are fixed.
      roles: role by path, for revisions without a role: `jsparse.roles(model)`, or
        `{path: rule.role for path, rule in plan.items()}`. Needed for stacked layers, and for units
        and scopes of layers whose weight is not [..., inputs, outputs]; also for coupled units,
        whose revisions have unit=Group() and patterns for names of groups.
      seed: seed of all random numbers; the same seed gives the same masks.

    Returns:
      An optax transform for trees with masks. Its `apply` is the faster way to use it; a transform
      that wraps it does not have this method.

    Raises:
      TypeError: the second element of a pair is not a revision; inner is not an optax transform;
        roles is not a mapping of roles.
      ValueError: a seed that is not a whole number; no pairs, or a pattern that matches nothing. On
        first use: no masks; a mask that has no weight, another shape than its weight, or parts of
        units; gradients without masks.

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
    chosen = pairs(revisions)
    check_revisions(chosen, roles)
    check_transform(inner=inner)
    check_seed(seed)
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        names, leaves, form = flatten(params)
        layers = find_layers(names, leaves, chosen, roles)
        for layer in layers:
            with naming(layer.path):
                check_mask(layer.mask_of(leaves))
                check_start(layer.by, layer.mask_of(leaves))
        run = _Run(inner, layers, form, leaves, [], jnp.zeros((), jnp.int32), jnp.asarray(seed))
        abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
        seen = leaves if abstract else only(run.trained(), leaves)
        return Revised(run.step, run.seed, inner.init(without(form, seen, run.masks)))

    def begin(gradients: Any, state: Revised, params: Any) -> _Run:
        if params is None:
            raise ValueError("revise needs the tree itself: tx.update(gradients, state, tree)")
        names, leaves, form = flatten(params)
        layers = find_layers(names, leaves, chosen, roles)
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
    update.revisions = chosen  # type: ignore
    update.roles = roles  # type: ignore
    update.seed = seed  # type: ignore
    update.inner = inner  # type: ignore
    around = lambda inner, roles=roles: revise(inner, *revisions, roles=roles, seed=seed)
    update.around = around  # type: ignore
    return Revise(init, update)


class _Run(NamedTuple):
    """One train step, on flat lists of leaves."""

    inner: Any
    layers: Sequence[Layer | CoupledLayer]
    form: Any
    leaves: list[Array]
    gradients: list[Array]
    step: Array
    seed: Array

    @property
    def masks(self) -> set[int]:
        return {mask for layer in self.layers for mask in layer.masks}

    @property
    def revised(self) -> list[tuple[Layer | CoupledLayer, Revision]]:
        return [(layer, layer.by) for layer in self.layers if layer.by]

    def tree(self, leaves: Sequence[Array]) -> Any:
        return jax.tree_util.tree_unflatten(self.form, leaves)

    def trained(self) -> At:
        """Where each weight that has a mask is trained."""
        return both(layer.over(self._trained(layer), self.leaves) for layer in self.layers)

    def train(self, state: Any, extra: Mapping[str, Any]) -> tuple[list[Array], Any]:
        """Updates and state of the inner transform; updates are 0 for masks and frozen weights."""
        gradients, trained = list(self.gradients), self.trained()
        for layer in self.layers:
            for w, dense in layer.hidden(self.leaves, self.gradients).items():
                gradients[w] = gradients[w] + dense
        seen, given = only(trained, self.leaves), only(trained, gradients)
        given, weights = (without(self.form, tree, self.masks) for tree in (given, seen))
        extra = inside(extra, self.form, self.leaves, self.masks)
        update = lambda state: self.inner.update(given, state, weights, **extra)
        pauses = [layer for layer, by in self.revised if by.pauses]
        pause = self._due(pauses)
        result, state = pausing(update, state, pause) if pauses else update(state)
        rest = iter(jax.tree.leaves(result))
        updates = [jnp.zeros_like(x) if n in self.masks else next(rest) for n, x in enumerate(seen)]
        updates = only(trained, updates)
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
        return lax.cond(anywhere(due), finish, lambda now: now, (leaves, state))

    def _jumps(self, trained: Callable[[int], Any]) -> list[Array]:
        """The new mask minus the old one for each revised layer: int8, to move few bytes.

        Args:
          trained: position of a weight -> the weight after the step.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), self.step)

        def jump(n: int, layer: Layer | CoupledLayer, by: Revision) -> Array:
            mask, key_here = layer.mask_of(self.leaves), jax.random.fold_in(key, n)
            one = stacked(by, self.step, key_here)
            with naming(layer.path):
                weight = jnp.asarray(layer.seen(trained))
                moved = one(mask, weight, layer.growth(self.gradients)) - mask
                return jnp.where(by.due(self.step), moved, 0).astype(jnp.int8)

        stay = lambda layer: jnp.zeros_like(layer.mask_of(self.leaves), jnp.int8)
        return [  # one branch per layer takes less memory than one for all
            lax.cond(anywhere(by.due(self.step)), partial(jump, n, layer, by), partial(stay, layer))
            for n, (layer, by) in enumerate(self.revised)
        ]

    def _trained(self, layer: Layer | CoupledLayer) -> Array:
        """bool, [...] like the mask of a layer: what is trained."""
        mask, by = layer.mask_of(self.leaves), layer.by
        if by is None:
            return mask > 0
        return over_stack(by.trained, by.role.stack)(mask, layer.seen(self.leaves.__getitem__)) > 0

    def _stay(self, jumps: list[Array]) -> list[tuple[Layer | CoupledLayer, Array]]:
        """What of each layer is not cleared."""
        pairs = zip(self.revised, jumps, strict=True)
        return [(layer, jump == 0) for (layer, by), jump in pairs if by.clears]

    def _zeroed(self, jumps: list[Array]) -> At:
        """Where the weights keep their values; elsewhere they become 0."""
        return both(layer.closing(stay, self.leaves) for layer, stay in self._stay(jumps))

    def _cleared(self, state: Any, jumps: list[Array]) -> Any:
        """The inner state, with moments of 0 for weights that are dropped or grown."""
        still = both(layer.over(stay, self.leaves) for layer, stay in self._stay(jumps))
        if not still:
            return state
        all_still = [still.get(n, jnp.ones((), bool)) for n in range(len(self.leaves))]
        kept = without(self.form, all_still, self.masks)
        return cleared(state, kept)

    def _due(self, layers: Sequence[Layer | CoupledLayer]) -> Array:
        """bool []: whether a revision of these layers is due."""
        different = dict.fromkeys(layer.by for layer in layers if layer.by)
        return jnp.any(jnp.array([by.due(self.step) for by in different], bool))
