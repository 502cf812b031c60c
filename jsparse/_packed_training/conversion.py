"""A masked model in training and its optimizer, made truly sparse, and back.

1. Weights with the rule `Held` that a revision names become links of packed layers: those that the
   mask keeps, zeros among them included.
2. The optimizer starts at the same step, with the moments of the links.
3. When converting back, weights without a link are 0, and so are their moments.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._packed_training.carrying import carry_state
from jsparse._packed_training.optimizer import PackedOptimizer, check_revision
from jsparse._paths import match, named, naming
from jsparse._revise.transform import Revise
from jsparse._slots import Slot, check_module, slots, sparse_parts
from jsparse._sparse import Sparse
from jsparse._surgery import copied, fold, sparsify
from jsparse._untraced import outside_jit
from jsparse._values import check_whole, shown
from jsparse._variables import Mask, write
from jsparse.export._packing.dense import has_window, matrix_of, stack_of, why_not_packable
from jsparse.export._packing.formats import as_kernel, csr_places
from jsparse.export._packing.layers import dense_layer
from jsparse.export._packing.packed import Linked
from jsparse.export._packing.packers import csr
from jsparse.export._packing.replacing import layers_of, places_of, put_in_place
from jsparse.optim import Optimizer
from jsparse.optim._task import arrays_of
from jsparse.rules._held import Held

Model = TypeVar("Model", bound=nnx.Module)


class StoredLinks(NamedTuple):
    """A layer and the places of its links in the order in which they are stored.

    Attributes:
      dense: the layer with a whole kernel.
      packed: the layer of links.
      rows: [kept], inputs, each tap of each feature of a convolution being one; past all of them
        where there is room.
      columns: [kept], outputs.
    """

    dense: Any
    packed: Linked
    rows: np.ndarray
    columns: np.ndarray

    def packing(self, array: Any) -> np.ndarray:
        """[...] like the kernel -> [kept], of its links; an array of another shape as it is."""
        if jnp.shape(array) != self.dense.kernel.shape:
            return array
        found, live = matrix_of(self.dense, array), self.rows < self.packed.sizes.inputs
        return np.where(live, found[np.where(live, self.rows, 0), self.columns * live], 0)

    def unpacking(self, array: Any) -> np.ndarray:
        """[kept] -> [...] like the kernel, 0 where no link is; another shape as it is."""
        if jnp.shape(array) != self.rows.shape:
            return array
        sizes = self.packed.sizes
        live = self.rows < sizes.inputs
        whole = np.zeros((sizes.inputs, sizes.outputs), array.dtype)
        whole[self.rows[live], self.columns[live]] = np.asarray(array)[live]
        shape = self.dense.kernel.shape
        return as_kernel(whole, shape) if has_window(self.dense) else whole.reshape(shape)


@outside_jit
def pack_training(
    model: Model, optimizer: Optimizer, *, width: int = 0, candidates: float = 2.0
) -> tuple[Model, PackedOptimizer]:
    """A masked model in training and its optimizer, truly sparse: only the kept weights exist.

    Each weight that the optimizer revises becomes the links of a packed layer, with its moments. A
    step takes time and memory in proportion to them, and links change as masks would: see
    `jsparse.PackedOptimizer`. `unpack_training` converts back.

    Differences from the masked run: masked weights are gone, with the values to which `Gradual`
    could return; growth looks at `candidates` positions for each link that is grown; random
    positions differ.

    Args:
      model: with `Held` weights in linear layers and convolutions that `jsparse.export.pack` takes
        and that are not stacked; not changed.
      optimizer: of this model, with `jsparse.revise`; not changed.
      width: inputs a group, as in `jsparse.export.csr`.
      candidates: as in `jsparse.PackedOptimizer`.

    Returns:
      (the model with packed layers, its optimizer at the same step). A train step needs no change;
      it is recompiled once for them.

    Raises:
      TypeError: the optimizer is not a `jsparse.Optimizer` with `revise`.
      ValueError: a revised weight that cannot be packed, a revision that packed layers cannot
        follow, or state of the optimizer in another shape than its weight.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> import jsparse
      >>> model = nnx.Sequential(nnx.Linear(64, 32, rngs=nnx.Rngs(0)))
      >>> model = jsparse.sparsify(model, (".*/kernel", jsparse.Held()))
      >>> model = jsparse.prune.random(model, density=0.1, key=jax.random.key(0))
      >>> tx = jsparse.revise(optax.adam(1e-3), (".*/kernel", jsparse.SET(last=1000)))
      >>> optimizer = jsparse.Optimizer(model, tx, wrt=(nnx.Param, jsparse.Mask))
      >>> model, optimizer = jsparse.pack_training(model, optimizer)
      >>> model.layers[0].values.shape, optimizer.opt_state[0].mu["layers"][0]["values"].shape
      ((205,), (205,))
    """
    tx = _checked(model, optimizer, Optimizer)
    check_whole(0, width=width)
    for pattern, by in tx.revisions:
        with naming(pattern):
            check_revision(by)
    copy, parts = copied(model), sparse_parts(model)
    held = {path: part for path, part in parts.items() if "mask" in part.state_names}
    plain = {place.path: place.value for place in layers_of(fold(model))}
    layers = {}
    for path in match(held, tx.revisions):
        with naming(path):
            layer, _, name = path.rpartition("/")
            _check_layer(plain.get(layer) if name == "kernel" else None, path, model)
            layers[layer] = _packed(plain[layer], held[path], width)
    packed = _put(copy, layers_of(copy), layers, lambda links: links.packed)
    settings = {"controls": optimizer.controls, "clip_task": optimizer.clip_task}
    made = PackedOptimizer(packed, tx, wrt=optimizer.wrt, candidates=candidates, **settings)
    state: Any = arrays_of(optimizer.opt_state)
    ways = {
        f"{path}/values".lstrip("/"): (f"{path}/kernel/weight".lstrip("/"), links.packing)
        for path, links in layers.items()
    }
    carry_state(named(state.inner), packed, made, ways, lambda new: new)
    write(made.step, state.steps.astype(made.step[...].dtype))
    write(made.seed, state.seed)
    made.memory = jax.tree.map(jnp.copy, optimizer.memory)
    made.probe(packed)
    return packed, made


@outside_jit
def unpack_training(model: Model, optimizer: PackedOptimizer) -> tuple[Model, Optimizer]:
    """Convert a truly sparse run back to the masked model and optimizer: undo `pack_training`.

    Layers become `nnx.Linear`, or `nnx.LinearGeneral` where features have several axes, or
    `nnx.Conv` where they have a window. Weights without a link are 0, and so are their moments.

    Args:
      model: with packed layers; not changed. Those without a revision stay packed.
      optimizer: of this model; not changed.

    Returns:
      (the model with `Held` weights, a `jsparse.Optimizer` at the same step).

    Raises:
      TypeError: not a model and its `PackedOptimizer`.
      ValueError: state of the optimizer in another shape than its weight.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> import jsparse
      >>> from jsparse.export import random_csr
      >>> model = nnx.Sequential(random_csr(64, 32, links=4, key=jax.random.key(0)))
      >>> tx = jsparse.revise(optax.adam(1e-3), (".*/kernel", jsparse.SET(last=1000)))
      >>> optimizer = jsparse.PackedOptimizer(model, tx)
      >>> model, optimizer = jsparse.unpack_training(model, optimizer)
      >>> int(jsparse.masks(model)["layers/0/kernel"].sum())
      128
    """
    tx = _checked(model, optimizer, PackedOptimizer)
    layers = {
        path: _stored_links(dense_layer(layer), layer)
        for path, layer in optimizer.revised(model).items()
    }
    copy: Any = copied(model)
    copy = _put(copy, places_of(copy, Linked), layers, lambda links: links.dense)
    kernels = {f"{path}/kernel".lstrip("/"): links for path, links in layers.items()}
    masked = sparsify(copy, *((re.escape(path), Held()) for path in kernels))
    for path, part in sparse_parts(masked).items():
        if path in kernels:
            links = kernels[path]
            ones = np.ones(links.rows.shape, part.mask[...].dtype)
            part.mask[...] = jnp.asarray(links.unpacking(ones))
    settings = {"controls": optimizer.controls, "clip_task": optimizer.clip_task}
    made = Optimizer(masked, tx, wrt=nnx.Any(optimizer.wrt, Mask), **settings)
    ways = {
        f"{path}/weight": (f"{path.removesuffix('kernel')}values", links.unpacking)
        for path, links in kernels.items()
    }
    steps, seed = optimizer.step[...].astype(jnp.int32), optimizer.seed[...]
    state = arrays_of(made.opt_state)
    whole = lambda inner: state._replace(steps=steps, seed=seed, inner=inner)
    carry_state(named(arrays_of(optimizer.opt_state)), masked, made, ways, whole)
    write(made.step, optimizer.step[...])
    made.memory = jax.tree.map(jnp.copy, optimizer.memory)
    return masked, made


def _checked(model: Any, optimizer: Any, kind: type[Optimizer]) -> Revise:
    """The transform of an optimizer of this kind, with revisions."""
    check_module(model)
    packed = isinstance(optimizer, PackedOptimizer)
    if not isinstance(optimizer, kind) or packed != (kind is PackedOptimizer):
        raise TypeError(
            f"optimizer must be the model's jsparse.{kind.__name__}; got {shown(optimizer)}"
        )
    tx = optimizer.given if isinstance(optimizer, PackedOptimizer) else optimizer.tx
    if not isinstance(tx, Revise):
        raise TypeError(
            "optimizer must be a jsparse.Optimizer whose tx jsparse.revise made, with nothing "
            f"around it; got one with {shown(tx)}"
        )
    return tx


def _check_layer(layer: Any, path: str, model: nnx.Module) -> None:
    """Refuse weights that are not the kernel of a layer that can be packed."""
    why = "it is not the kernel of a layer" if layer is None else why_not_packable(layer)
    if layer is not None and not why and stack_of(layer):
        why = "a stack of layers, whose links cannot change yet"
    if not why:
        mine = sparse_parts(model)[path]
        users = {id(slot.parent): slot.path for slot in slots(model, Sparse) if slot.value is mine}
        why = f"its kernel is shared by {' and '.join(users.values())}" if len(users) > 1 else ""
    if why:
        raise ValueError(
            f"its links cannot be packed: {why}. Give the optimizer no revision for it, as in "
            'revise(tx, ("layers/.*/kernel", ...)), or train the masked model'
        )


def _put(
    model: Any,
    places: list[Slot],
    layers: Mapping[str, StoredLinks],
    form: Callable[[StoredLinks], Any],
) -> Any:
    """The model itself with layers, which are given by their first path, in another form."""
    first: dict[int, str] = {}
    homes = {place.path: first.setdefault(id(place.value), place.path) for place in places}

    def made(place: Slot) -> Any:
        new = form(layers[homes[place.path]])
        new.bias = place.value.bias
        return new

    return put_in_place(model, [p for p in places if homes[p.path] in layers], made)


def _packed(dense: Any, part: Sparse, width: int) -> StoredLinks:
    """The links that the mask of a layer keeps; the kernel of the dense layer becomes the mask."""
    weight = part.weight[...]
    dense.kernel[...] = part.mask[...].astype(weight.dtype)
    packed: Any = csr(width)(dense)
    links = _stored_links(dense, packed)
    links.packed.values[...] = jnp.asarray(links.packing(weight))
    return links


def _stored_links(dense: Any, layer: Linked) -> StoredLinks:
    sizes = layer.sizes
    places = csr_places(layer.arrays(layer.values[...]), sizes.outputs, sizes.width)
    return StoredLinks(dense, layer, *map(np.asarray, places))
