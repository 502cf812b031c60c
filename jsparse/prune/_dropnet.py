"""DropNet: drop whole units by how much they are active, in rounds.

1. Train the network from its first weights, with the units that are left.
2. Run it on the training data; a unit is worth its mean absolute activation after the nonlinearity,
   a filter the mean of its map.
3. Drop the units worth least (`Minimum`), or most (`Maximum`), or any (`AnyUnit`), of the whole
   network or of each layer; or those that are most often exactly 0 (`APoZ`).
4. Rewind the weights and repeat, until few units or too little accuracy are left.

In the authors' code a mask multiplies the activations, so a dropped unit gives 0. Here the masks of
all its weights are 0, and that of its bias too: without it the unit would give nonlinearity(bias)
for every input. So a layer's bias is put under `Held` with its kernel, and what else would give the
unit back a value (the bias of a norm behind it) is named in `along`. Where the nonlinearity of 0 is
not 0 (a sigmoid) this is no dropping; that is not checked.

Numbers: experiments/dropnet.py, Model C of the paper on CIFAR-10, beside its published table.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import jax.numpy as jnp
from flax import nnx

from jsparse._slots import slots
from jsparse._sparse import Sparse
from jsparse._surgery import hold
from jsparse.prune._choice import (
    Arrays,
    Choice,
    check_alive,
    check_choice,
    globally,
    held_parts,
)
from jsparse.prune._folder import Keep, Nowhere
from jsparse.prune._rounds import Restart, Rewind, Round, Train, in_rounds

Model = TypeVar("Model", bound=nnx.Module)
REWIND, NOWHERE = Rewind(), Nowhere()
ALONE: Mapping[str, Sequence[str]] = {}


class UnitScore(Protocol):
    """What units are worth; a high score is kept."""

    def __call__(self, model: nnx.Module, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """By path of the weight, [units] as in `shapes`."""
        ...


def dropnet(
    model: Model,
    train: Train,
    score: UnitScore,
    densities: Sequence[float],
    *,
    restart: Restart = REWIND,
    choose: Choice = globally,
    along: Mapping[str, Sequence[str]] = ALONE,
    keep: Keep = NOWHERE,
) -> Iterator[tuple[Round, Model]]:
    """Train and drop units in turns.

    Args:
      model: the kernels of the layers that lose units under `Held`, with the biases of these
        layers; that of the last layer, whose outputs are wanted, is not.
      train: train(model, round) returns the trained model.
      score: `Minimum(...)`, `Maximum(...)`, `APoZ(...)` or `AnyUnit(seed)`.
      densities: fraction of the units, not of the weights, to keep after each round, as
        `each_round(0.8, 10)`. (`round.density` is that of the weights under `Held`.)
      restart: `Rewind()`, or another.
      choose: who competes: `globally`, or `by_layer()`.
      along: other parameters under `Held` that a weight's units have, by its path: the scale and
        bias of a norm, {"conv1/kernel": ("norm1/scale", "norm1/bias")}.
      keep: `Folder("runs/a")` to go on after a kill.

    Yields:
      Each round and the model that it trained, round 0 first.

    Raises:
      ValueError: a bias that would bring units back; densities that do not fall; a layer that
        loses its last unit; other settings in the folder.

    Reference: Tan and Motani, DropNet, ICML 2020.
    """
    check_choice(choose)  # faults are said at once
    with_units(model, along)

    def prune(trained: Model, asked: float, number: int) -> Model:
        return drop_units(
            trained, score(trained, unit_shapes(trained, along)), asked, choose, along
        )

    settings = {"method": "dropnet", "score": score, "choose": choose, "along": along}
    return in_rounds(model, train, prune, restart, densities, keep, settings)


def drop_units(
    model: Model,
    scores: Arrays,
    density: float,
    choose: Choice = globally,
    along: Mapping[str, Sequence[str]] = ALONE,
) -> Model:
    """A copy of the model that keeps the units with the highest scores; dropped ones stay dropped.

    Exactly as many as `choose` keeps; of equal scores (dead units) those of lower index, where the
    authors' code draws.

    Args:
      model: as for `dropnet`.
      scores: of units by path of their weight, [units].
      density: fraction of all units to keep, in (0, 1].
      choose: who competes.
      along: as for `dropnet`.

    Raises:
      ValueError: as `dropnet`, or scores that do not fit.
    """
    parts, units = held_parts(model), with_units(model, along)
    shapes = unit_shapes(model, along)
    layers = {}
    for path, shape in shapes.items():
        if path not in scores or jnp.shape(scores[path]) != shape:
            raise ValueError(
                f"{path} has units {shape}; got scores of "
                f"{ {name: jnp.shape(score) for name, score in scores.items()} }"
            )
        if bool(jnp.isnan(scores[path]).any()):
            raise ValueError(f"{path}: scores are NaN; look for NaN in the weights or the batches")
        axes = _axes(parts[path])
        there = parts[path].mask[...].max(axis=tuple(set(range(parts[path].mask.ndim)) - set(axes)))
        layers[path] = jnp.where(there > 0, scores[path], -jnp.inf)
    kept = choose(layers, density, shapes)
    kept = {path: kept[path] & (score > -jnp.inf) for path, score in layers.items()}
    check_alive(kept, density)
    masks = {}
    for path, others in units.items():
        for name in (path, *others):
            mask, axes = parts[name].mask[...], _axes(parts[name])
            spread = jnp.expand_dims(kept[path], tuple(set(range(mask.ndim)) - set(axes)))
            masks[name] = mask * spread.astype(mask.dtype)
    return hold(model, masks)


def unit_shapes(
    model: nnx.Module, along: Mapping[str, Sequence[str]] = ALONE
) -> dict[str, tuple[int, ...]]:
    """The number of output units of each weight that loses them, along each axis, by path."""
    parts = held_parts(model)
    return {path: _unit_shape(parts[path]) for path in with_units(model, along)}


def with_units(
    model: nnx.Module, along: Mapping[str, Sequence[str]] = ALONE
) -> dict[str, list[str]]:
    """Each weight that loses units, and what falls with them: the layer's bias and `along`.

    Raises:
      ValueError: something would bring dropped units back, or would fall with none.
    """
    parts = held_parts(model)
    units: dict[str, list[str]] = {}
    for slot in slots(model):
        part = parts.get(slot.path)
        if part is None or not part.rule.role.input_axes(part.weight.ndim):
            continue
        if part.rule.role.stack:
            raise ValueError(
                f"{slot.path} stacks several layers along its first axis; units can be dropped "
                "where each layer is a module of its own"
            )
        units[slot.path] = list(along.get(slot.path, ()))
        bias = slot.path.removesuffix("kernel") + "bias"
        if slot.key == "kernel" and getattr(slot.parent, "bias", None) is not None:
            if not isinstance(slot.parent.bias, Sparse):
                raise ValueError(
                    f"{bias} would bring dropped units back; put it under Held with the kernel: "
                    "jsparse.sparsify(model, ('.*/(kernel|bias)', jsparse.Held()))"
                )
            units[slot.path].append(bias)
    falling = [*units, *(name for names in units.values() for name in names)]
    lost = [name for name in (*along, *falling) if name not in parts]
    lost += [name for name in parts if name not in falling]
    if lost:
        raise ValueError(
            f"{lost[0]} falls with no units; put weights, their biases and what `along` names by "
            f"the weight's path under Held, and nothing else; there are {', '.join(parts)}"
        )
    for path, names in units.items():
        for name in names:
            there, here = _unit_shape(parts[name]), _unit_shape(parts[path])
            if there != here:
                raise ValueError(f"{name} has units {there}, {path} has {here}; they fall together")
    return units


def _axes(part: Sparse) -> tuple[int, ...]:
    """The axes that number units: the outputs of a weight, all axes of a bias or scale."""
    role, ndim = part.rule.role, part.weight.ndim
    return role.output_axes(ndim) if role.input_axes(ndim) else tuple(range(ndim))


def _unit_shape(part: Sparse) -> tuple[int, ...]:
    return tuple(part.weight.shape[axis] for axis in _axes(part))
