"""The optax transform that runs revisions on a tree: see `step` for what a train step does."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jsparse._paths import naming, pairs
from jsparse._pattern import Role
from jsparse._revise.layers import zero_outside
from jsparse._revise.pairs import (
    check_mask,
    check_revisions,
    check_seed,
    check_start,
    find_layers,
    flatten,
    matching_leaves,
    without_masks,
)
from jsparse._revise.revision import Revision, Revisions
from jsparse._revise.step import Run
from jsparse._values import check_transform


class Revised(NamedTuple):
    """State of `revise`.

    Attributes:
      steps: number of train steps so far.
      seed: seed of the random numbers; replace it to vary it between runs of one program.
      inner: state of the inner transform.
      masks: the masks in its tree by path, each an empty `optax.MaskedNode`.
    """

    steps: Array
    seed: Array
    inner: Any
    masks: dict[str, optax.MaskedNode]


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
        run = Run(inner, layers, form, leaves, [], jnp.zeros((), jnp.int32), jnp.asarray(seed))
        abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
        seen = leaves if abstract else zero_outside(run.trained(), leaves)
        masks = {names[m]: optax.MaskedNode() for m in run.masks}
        return Revised(run.step, run.seed, inner.init(without_masks(form, seen, run.masks)), masks)

    def begin(gradients: Any, state: Revised, params: Any) -> Run:
        if params is None:
            raise ValueError("revise needs the tree itself: tx.update(gradients, state, tree)")
        names, leaves, form = flatten(params)
        layers = find_layers(names, leaves, chosen, roles)
        given = matching_leaves(gradients, names)
        return Run(inner, layers, form, leaves, given, state.steps + 1, state.seed)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        run = begin(updates, state, params)
        changes, inner_state = run.change(*run.train(state.inner, extra))
        return run.tree(changes), state._replace(steps=run.step, inner=inner_state)

    def apply(gradients: Any, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        run = begin(gradients, state, params)
        leaves, inner_state = run.apply(*run.train(state.inner, extra))
        return run.tree(leaves), state._replace(steps=run.step, inner=inner_state)

    around = lambda inner, roles=roles: revise(inner, *revisions, roles=roles, seed=seed)
    vars(update).update(apply=apply, around=around)
    vars(update).update(revisions=chosen, roles=roles, seed=seed, inner=inner)
    return Revise(init, update)
