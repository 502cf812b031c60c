"""Training of packed layers: an optimizer that also changes their links."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array, lax

from jsparse._counting import any_under_vmap
from jsparse._packed_training.moving import (
    Drawn,
    carried_over,
    draw_places,
    moved,
    places_to_draw,
    starts_at,
)
from jsparse._paths import map_by_path, match, named, naming
from jsparse._pattern import Role, Weight, Whole
from jsparse._revise.moments import followed
from jsparse._revise.pause import pausing
from jsparse._revise.revision import MovesLinks
from jsparse._revise.transform import Revise
from jsparse._slots import check_module, slots
from jsparse._values import is_number, shown
from jsparse._variables import Mask, Setting, write
from jsparse.export._packing.formats import segments
from jsparse.export._packing.packed import Linked
from jsparse.export._packing.probe import Probe
from jsparse.optim import Optimizer
from jsparse.optim._task import arrays_of
from jsparse.rules._coupled import Group

Layers = dict[str, tuple[Linked, MovesLinks]]


class PackedOptimizer(Optimizer):
    """`jsparse.Optimizer` for packed layers with changing links.

    It takes what `revise` returns, with the patterns that a masked model would have: the layer
    `layers/0` is named `layers/0/kernel`. The revisions are `SET`, `RigL`, `Gradual` and `Below`.
    They drop links of a layer and grow places that are drawn at random: enough that `SET` grows as
    in a masked layer; the more are drawn, the closer `RigL` comes to using the gradients of all
    places. No array has the size of a dense kernel, unless all places are requested; moments stay
    with their links, and those of new ones are 0. If fewer links remain than at first, there is
    room at the end of the arrays; `jsparse.export.trim` removes it.

    Under `RigL` train steps need the gradient of the drawn places, which is computed on the steps
    that grow: `argnums=nnx.DiffState(0, (nnx.Param, jsparse.Mask))`.

    Args:
      model: with packed layers, such as `jsparse.export.random_csr` and `pack` make.
      tx: from `jsparse.revise`.
      wrt: which variables to train; masks in it are ignored.
      candidates: places drawn for each link that `RigL` grows, 1 or more; `inf` for all places,
        which takes 10 bytes for each place of the matrix.
      **settings: `controls` and `clip_task`, as for `jsparse.Optimizer`.

    Raises:
      TypeError: tx is not from `revise`.
      ValueError: a pattern that matches no packed layer; a revision that needs a mask, or units and
        scopes other than single weights in a whole layer.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from jsparse._revise.set import SET
      >>> from jsparse._revise.transform import revise
      >>> from jsparse.export import random_csr
      >>> model = nnx.Sequential(random_csr(64, 32, links=4, key=jax.random.key(0)))
      >>> tx = revise(optax.adam(1e-3), (".*/kernel", SET(last=100, every=1)))
      >>> optimizer = PackedOptimizer(model, tx)
      >>> grads = nnx.grad(lambda model: model(jnp.ones((2, 64))).sum())(model)
      >>> optimizer.update(model, grads)
      >>> int((model.layers[0].values[...] == 0).sum())  # 30 % of 128 links are new
      38
    """

    def __init__(
        self,
        model: nnx.Module,
        tx: Revise,
        *,
        wrt: Any = nnx.Param,
        candidates: float = 2.0,
        **settings: Any,
    ):
        check_module(model)
        if not isinstance(tx, Revise):
            raise TypeError(
                f"tx must be what jsparse.revise returns, such as revise(optax.adam(1e-3), "
                f'(".*/kernel", SET(last=1000))); got {shown(tx)}'
            )
        if not (is_number(candidates) and candidates >= 1):
            raise ValueError(
                f"candidates must be a number, 1 or more, or inf for all places; got "
                f"{shown(candidates)}"
            )
        self.given = tx
        self.candidates = float(candidates)
        self._layers(model)
        weights = nnx.All(wrt, nnx.Not(Mask))
        super().__init__(model, _pausable(tx.inner), wrt=weights, **settings)
        self.seed = Setting(jnp.asarray(tx.seed))
        self.probe(model)

    def update(self, model: nnx.Module, grads: Any, /, **kwargs: Any) -> None:
        """Update the weights with the gradients, change the links and run the events, in place.

        Args:
          model: the model that the optimizer was created with.
          grads: gradients of the loss; under `RigL` those of masks too.
          **kwargs: further arguments for the optax transform.

        Raises:
          ValueError: under `RigL`, the gradients lack those of the drawn places.
        """
        layers, step = self._layers(model), self.step[...] + 1
        found = named(arrays_of(grads))
        pausers = {by for _, by in layers.values() if by.pauses}
        if pausers:
            kwargs["pause"] = jnp.any(jnp.array([by.due(step) for by in pausers]))
        super().update(model, grads, **kwargs)
        self._move(model, layers, found, step)

    def _layers(self, model: nnx.Module) -> Layers:
        """Packed layers with their revisions, by path; a shared one has its first path."""
        if isinstance(model, Linked):
            found = {"": model}
        else:
            found = {slot.path: slot.value for slot in slots(model, Linked)}
        first = {id(layer): path for path, layer in reversed(found.items())}
        kernels = {f"{path}/kernel".lstrip("/"): path for path in found}
        if not kernels:
            raise ValueError(
                "the model has no packed layers (Csr, CsrConv); make them with "
                "jsparse.export.random_csr or pack, or train a masked model with jsparse.Optimizer"
            )
        chosen: dict[str, Any] = match(kernels, self.given.revisions)
        for path, by in chosen.items():
            with naming(path):
                check_revision(by)
                _check_single(found, kernels[path])
        return {
            path: (found[path], dataclasses.replace(chosen[kernel], role=Role()))
            for kernel, path in kernels.items()
            if kernel in chosen and first[id(found[path])] == path
        }

    def revised(self, model: nnx.Module) -> dict[str, Linked]:
        """The packed layers whose links change, by path."""
        return {path: layer for path, (layer, _) in self._layers(model).items()}

    def probe(self, model: nnx.Module) -> None:
        """Draw places for the layers that grow by gradient, in place: at the start of training."""
        layers = self._layers(model)
        step = self.step[...]
        for n, (path, (layer, by)) in enumerate(layers.items()):
            if by.by_gradient:
                key = jax.random.fold_in(self._key(step), n)
                with naming(path or "the model"):
                    parts, indices = self._drawn(key, layer, by)
                starts = starts_at(parts, layer.sizes.parts)
                layer.probe = Probe(indices, starts, by.due(step + 1))

    def _key(self, step: Array) -> Array:
        return jax.random.fold_in(jax.random.key(self.seed[...]), step)

    def _drawn(self, key: Array, layer: Linked, by: MovesLinks) -> tuple[Array, Array]:
        count = places_to_draw(by, layer.values.shape[0], layer.sizes, self.candidates)
        return draw_places(key, count, layer.sizes)

    def _move(
        self, model: nnx.Module, layers: Layers, grads: dict[str, Array], step: Array
    ) -> None:
        """Change the links of the layers that are due, and move the moments with them."""
        key, sources = self._key(step), {}
        for n, (path, (layer, by)) in enumerate(layers.items()):
            one = jax.random.fold_in(key, n)
            with naming(path or "the model"):
                sources[path] = self._move_layer(layer, by, path, grads, step, one)
        due = jnp.any(jnp.array([by.due(step) for _, by in layers.values()]))
        moves = {f"{path}/values".lstrip("/"): source for path, source in sources.items()}
        stayed = jnp.zeros((), jnp.int32)
        source = lambda path, _: moves.get(path, stayed)
        trained = map_by_path(source, arrays_of(nnx.state(model, self.wrt)))
        state = arrays_of(self.opt_state)
        follow = lambda state: followed(state, trained)
        state = lax.cond(any_under_vmap(due), follow, lambda state: state, state)
        nnx.update(self.opt_state, nnx.state(state))

    def _move_layer(
        self, layer: Linked, by: MovesLinks, path: str, grads: dict, step: Array, key: Array
    ) -> Array:
        """Change the links of a layer if it is due; return where each was before."""
        sizes, due = layer.sizes, by.due(step)
        arrays = layer.arrays(layer.values[...])
        variables = [layer.values, layer.indices, layer.starts]
        own, scores = jnp.full(arrays.values.shape, -1.0), jnp.zeros(0)
        if by.by_gradient:
            variables += [layer.probe.indices, layer.probe.starts]
            own, scores = _gradients(path, grads)
        before = [variable[...] for variable in variables]

        def move() -> list[Array]:
            parts, indices = self._drawn(key, layer, by)
            if by.by_gradient:  # the places drawn before grow, and these are the next ones
                *_, drawn, starts = before
                seen = Drawn(segments(starts, scores.shape[0]), drawn, scores)
                again = [indices, starts_at(parts, sizes.parts)]
            else:
                seen, again = Drawn(parts, indices, jax.random.uniform(key, parts.shape)), []
            new = moved(by, arrays, own, seen, sizes, step)
            values = carried_over(arrays.values, new.sources)
            return [new.sources, values, new.indices, new.starts, *again]

        def stay() -> list[Array]:
            return [lax.iota(jnp.int32, len(arrays.values)), *before]

        def chosen() -> list[Array]:  # under vmap some elements may not be due
            return [jnp.where(due, new, old) for new, old in zip(move(), stay(), strict=True)]

        after: Any = lax.cond(any_under_vmap(due), chosen, stay)
        for variable, value in zip(variables, after[1:], strict=True):
            write(variable, value)
        if by.by_gradient:
            write(layer.probe.due, jnp.asarray(by.due(step + 1), bool))
        return after[0]


def _pausable(inner: Any) -> optax.GradientTransformationExtraArgs:
    """The transform, which changes nothing on steps where `pause` is true."""
    whole = optax.with_extra_args_support(inner)

    def update(
        updates: Any, state: Any, params: Any = None, pause: Any = None, **extra: Any
    ) -> Any:
        if pause is None:
            return whole.update(updates, state, params, **extra)
        one = lambda state: whole.update(updates, state, params, **extra)
        changes, state = pausing(one, state, pause)
        return jax.tree.map(lambda u: jnp.where(pause, jnp.zeros_like(u), u), changes), state

    if hasattr(inner.update, "routed"):
        update.routed = inner.update.routed  # type: ignore[attr-defined]
    return optax.GradientTransformationExtraArgs(whole.init, update)


def _check_single(layers: Mapping[str, Linked], path: str) -> None:
    """Refuse layers whose links cannot change independently."""
    layer = layers[path]
    if layer.stack:
        raise ValueError(f"a stack of {layer.stack} layers, whose links cannot change yet")
    for other, one in layers.items():
        if one is not layer and one.values is layer.values:
            raise ValueError(f"its kernel is shared with {other}, so its links cannot change yet")


def _gradients(path: str, grads: dict[str, Array]) -> tuple[Array, Array]:
    """Scores of the links of a layer, and of the places that its probe has drawn."""
    names = [f"{path}/{name}".lstrip("/") for name in ("values", "probe/drawn")]
    if absent := [name for name in names if name not in grads]:
        raise ValueError(
            f"the gradients have no {absent[0]!r}, which growing by gradient reads; take them with "
            "argnums=nnx.DiffState(0, (nnx.Param, jsparse.Mask))"
        )
    links, drawn = (jnp.abs(grads[name].astype(jnp.float32)) for name in names)
    return links, drawn


def check_revision(by: Any) -> None:
    """Refuse revisions that packed layers cannot follow."""
    name = type(by).__name__
    if not hasattr(by, "moved"):
        raise ValueError(
            f"{name} trains or frees weights that are not kept, and packed layers hold no others; "
            "use SET, RigL, Gradual or Below, or train the masked model"
        )
    if by.unit == Group():
        raise ValueError(
            f"{name} closes units of several layers, and packed layers hold single links; train "
            "with masks and remove closed units with jsparse.shrink, or jsparse.hold the model "
            "and continue with jsparse.shrink_training"
        )
    if by.unit != Weight() or by.scope != Whole():
        raise ValueError(
            f"{name} has unit {by.unit} and scope {by.scope}; in packed layers single weights "
            "compete in the whole layer: use unit=Weight() and scope=Whole()"
        )
