"""DropNet: drop whole units in rounds, according to their activity.

1. Train the network from its initial weights, with the remaining units.
2. Run it on the training data. The score of a unit is its mean absolute activation after the
   nonlinearity; for a filter, the mean over its feature map.
3. Drop the units with the lowest scores (`Minimum`), the highest scores (`Maximum`) or at random
   (`RandomUnits`), from the whole network or from each layer; or the units that are most often
   exactly 0 (`APoZ`).
4. Rewind the weights and repeat, until few units remain or the accuracy is too low.

In the authors' code a mask multiplies the activations, so a dropped unit outputs 0. Here the masks
of all its weights are 0, and so is the mask of its bias; otherwise the unit would output
nonlinearity(bias) for every input. A layer's bias therefore goes under `Held` along with its
kernel, and any other parameter that would give the unit a value (such as the bias of a norm that
follows) is listed in `along`. If the nonlinearity of 0 is not 0 (a sigmoid), units are not really
dropped; this is not checked.

Numbers: experiments/dropnet.py, Model C of the paper on CIFAR-10, next to its published table.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax.numpy as jnp
from flax import nnx

from jsparse._checks import check_density
from jsparse._slots import slots
from jsparse._sparse import Sparse
from jsparse._surgery import Model, hold
from jsparse._untraced import outside_jit
from jsparse._values import check_function, check_mapping
from jsparse.prune._choice import Arrays, Selector, check_choice, chosen, globally, held_parts
from jsparse.prune._folder import NOWHERE, RoundStore
from jsparse.prune._rounds import REWIND, Restart, Round, Train, in_rounds

ALONE: Mapping[str, Sequence[str]] = {}


class UnitScore(Protocol):
    """Scores units; units with high scores are kept."""

    def __call__(self, model: nnx.Module, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """Scores by path of the weight, [units] as in `shapes`."""
        ...


@outside_jit
def dropnet(
    model: Model,
    train: Train,
    score: UnitScore,
    densities: Sequence[float],
    *,
    restart: Restart = REWIND,
    choose: Selector = globally,
    along: Mapping[str, Sequence[str]] = ALONE,
    keep: RoundStore = NOWHERE,
) -> Iterator[tuple[Round, Model]]:
    """Alternate between training and dropping units.

    Args:
      model: a model with the kernels and biases of the layers that lose units under `Held`, but
        not those of the last layer, whose outputs are needed.
      train: train(model, round) returns the trained model.
      score: `Minimum(...)`, `Maximum(...)`, `APoZ(...)` or `RandomUnits(seed)`.
      densities: fraction of the units, not of the weights, to keep after each round, such as
        `each_round(0.8, 10)`. (`round.density` is the density of the weights under `Held`.)
      restart: `Rewind()`, or another restart.
      choose: which units compete: `globally`, or `by_layer()`.
      along: other parameters under `Held` that belong to a weight's units, by the path of the
        weight: the scale and bias of a norm, {"conv1/kernel": ("norm1/scale", "norm1/bias")}.
      keep: `Folder("runs/a")` to resume a run that was killed.

    Yields:
      Each round and the model that it trained, round 0 first.

    Raises:
      ValueError: a bias that would reactivate units; densities that do not decrease; a layer that
        loses its last unit; a folder with other settings.

    Reference: Tan and Motani, DropNet, ICML 2020.
    """
    check_choice(choose)
    check_function(score=score)
    check_mapping("names of parameters by path of the weight", along=along)
    dropped_together(model, along)  # report errors at once

    def prune(trained: Model, asked: float, number: int) -> Model:
        scores = score(trained, unit_shapes(trained, along))
        return drop_units(trained, scores, asked, choose, along)

    settings = {"method": "dropnet", "score": score, "choose": choose, "along": along}
    return in_rounds(model, train, prune, restart, densities, keep, settings)


@outside_jit
def drop_units(
    model: Model,
    scores: Arrays,
    density: float,
    choose: Selector = globally,
    along: Mapping[str, Sequence[str]] = ALONE,
) -> Model:
    """A copy of the model that keeps the units with the highest scores; dropped ones stay dropped.

    Exactly as many units as `choose` says are kept. Ties (dead units) are resolved in favor of the
    lower index, whereas the authors' code picks at random.

    Args:
      model: as for `dropnet`.
      scores: scores of units by path of their weight, [units].
      density: fraction of all units to keep, in (0, 1].
      choose: which units compete.
      along: as for `dropnet`.

    Raises:
      ValueError: as for `dropnet`, or scores that do not match the units.
    """
    check_density(density)
    check_choice(choose)
    check_mapping("scores of units by path of their weight", scores=scores)
    check_mapping("names of parameters by path of the weight", along=along)
    parts, units = held_parts(model), dropped_together(model, along)
    shapes = {path: _unit_shape(parts[path]) for path in units}
    layers = {}
    for path, shape in shapes.items():
        if path not in scores or jnp.shape(scores[path]) != shape:
            raise ValueError(
                f"{path} has units {shape}, but the scores have shapes "
                f"{ {name: jnp.shape(score) for name, score in scores.items()} }"
            )
        if bool(jnp.isnan(scores[path]).any()):
            raise ValueError(f"{path}: scores are NaN; look for NaN in the weights or the batches")
        there = parts[path].mask[...].max(axis=_inner_axes(parts[path]))
        layers[path] = jnp.where(there > 0, scores[path], -jnp.inf)
    kept = chosen(choose, layers, density, shapes)
    masks = {}
    for path, others in units.items():
        for name in (path, *others):
            whole = jnp.expand_dims(kept[path], _inner_axes(parts[name]))
            masks[name] = jnp.where(whole, parts[name].mask[...], 0)
    return hold(model, masks)


def unit_shapes(
    model: nnx.Module, along: Mapping[str, Sequence[str]] = ALONE
) -> dict[str, tuple[int, ...]]:
    """The shape of the output units of each weight that loses units, by path."""
    parts = held_parts(model)
    return {path: _unit_shape(parts[path]) for path in dropped_together(model, along)}


def dropped_together(
    model: nnx.Module, along: Mapping[str, Sequence[str]] = ALONE
) -> dict[str, list[str]]:
    """Each weight that loses units, and what is dropped with them: the layer's bias and `along`.

    Raises:
      ValueError: a parameter would reactivate dropped units, or belongs to no units.
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
                "only if each layer is a separate module"
            )
        units[slot.path] = list(along.get(slot.path, ()))
        bias = slot.path.removesuffix("kernel") + "bias"
        if slot.key == "kernel" and getattr(slot.parent, "bias", None) is not None:
            if not isinstance(slot.parent.bias, Sparse):
                raise ValueError(
                    f"{bias} would reactivate dropped units; put it under Held with the kernel: "
                    "jsparse.sparsify(model, ('.*/(kernel|bias)', jsparse.Held()))"
                )
            units[slot.path].append(bias)
    dropped = [*units, *(name for names in units.values() for name in names)]
    lost = [name for name in (*along, *dropped) if name not in parts]
    lost += [name for name in parts if name not in dropped]
    if lost:
        raise ValueError(
            f"{lost[0]} does not belong to any units; put only weights, their biases and the "
            "parameters in `along` (by the weight's path) under Held; available: "
            f"{', '.join(parts)}"
        )
    for path, names in units.items():
        for name in names:
            there, here = _unit_shape(parts[name]), _unit_shape(parts[path])
            if there != here:
                raise ValueError(
                    f"{name} has units {there}, but {path} has {here}; they are dropped together"
                )
    return units


def _inner_axes(part: Sparse) -> tuple[int, ...]:
    """The axes inside a unit: all but the outputs of a weight, none of a bias or scale."""
    role, axes = part.rule.role, range(part.weight.ndim)
    outputs = role.output_axes(len(axes)) if role.input_axes(len(axes)) else axes
    return tuple(axis for axis in axes if axis not in outputs)


def _unit_shape(part: Sparse) -> tuple[int, ...]:
    inner = _inner_axes(part)
    return tuple(n for axis, n in enumerate(part.weight.shape) if axis not in inner)
