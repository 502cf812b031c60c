"""From scores to masks: the part that all pruning methods share.

1. Each weight has a score, high = keep; weights that are already masked have none and stay masked.
2. `globally` keeps the highest scores over all layers, `by_layer` the highest of each layer, with
   the number for each layer given by a budget.
3. A layer without a single weight would disconnect the network, so it is refused.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._budget import Shapes, erdos_renyi, erdos_renyi_kernel, erdos_renyi_links, uniform
from jsparse._checks import check_density
from jsparse._coupled import CoupledUnits, shared_value
from jsparse._events import share_cuts_in_place
from jsparse._paths import listed, naming
from jsparse._pattern import Role
from jsparse._score import wide
from jsparse._sharding import beside
from jsparse._slots import ruled_parts
from jsparse._sparse import Sparse
from jsparse._surgery import Model, copied
from jsparse._topk import above_cut, common_cut, top
from jsparse._untraced import explain_abstract_model, outside_jit
from jsparse._values import check_mapping, shown
from jsparse.rules._coupled import Follows, rule_name
from jsparse.rules._held import Held
from jsparse.rules._keep import Keep

Arrays = Mapping[str, Array]


class Selector(Protocol):
    """Decides which weights are kept, from the scores of all layers: such as `globally`."""

    def __call__(self, scores: Arrays, density: float, shapes: Shapes) -> dict[str, Array]:
        """The weights kept, bool by layer.

        Args:
          scores: scores of the weights of each layer, [...]; -inf for weights already masked.
          density: fraction of the weights of all layers to keep, in (0, 1].
          shapes: (spatial..., inputs, outputs) of each layer, whatever the order of its axes.
        """
        ...


def globally(scores: Arrays, density: float, shapes: Shapes) -> dict[str, Array]:
    """Keep the highest scores over all layers: exactly max(1, round(density * all)).

    Example:
      >>> import jax.numpy as jnp
      >>> scores = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 0.0])}
      >>> {name: kept.tolist() for name, kept in globally(scores, 0.5, {}).items()}
      {'a': [True, False], 'b': [True, False]}
    """
    check_density(density)
    cuts = common_cut(list(scores.values()), density, (0,) * len(scores))
    return {
        name: above_cut(score, cut) for (name, score), cut in zip(scores.items(), cuts, strict=True)
    }


@dataclasses.dataclass(frozen=True)
class by_layer:
    """Keep the highest scores of each layer: as many as a budget says, but at least one.

    Args:
      budget: `schedule.uniform`, `schedule.erdos_renyi`, `schedule.erdos_renyi_kernel` or
        `schedule.erdos_renyi_links(factor)`.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = {"a": jnp.array([[3.0, 2.0]]), "b": jnp.array([[1.0, 0.0]])}
      >>> kept = by_layer()(scores, 0.5, {name: s.shape for name, s in scores.items()})
      >>> {name: mask.tolist() for name, mask in kept.items()}
      {'a': [[True, False]], 'b': [[True, False]]}
    """

    budget: Callable[[Shapes, float], dict[str, float]] = uniform

    def __post_init__(self) -> None:
        if isinstance(self.budget, type) or not callable(self.budget):
            raise TypeError(
                "budget must be a function such as jsparse.schedule.erdos_renyi_kernel; "
                f"got {shown(self.budget)}"
            )

    def __call__(self, scores: Arrays, density: float, shapes: Shapes) -> dict[str, Array]:
        densities = self.budget(shapes, density)
        return {n: top(s, densities[n], tuple(range(s.ndim))) for n, s in scores.items()}


def held_parts(model: nnx.Module) -> dict[str, Sparse]:
    """The prunable weights of a model by path: those under `Held`; `Keep` excludes a weight.

    Raises:
      TypeError: the model is not an nnx.Module.
      ValueError: no weight is under `Held`, or one is under another rule or of coupled units.
    """
    parts = stored_parts(model)
    if coupled := [name for name, part in parts.items() if isinstance(part, CoupledUnits)]:
        raise ValueError(
            f"the units of {coupled[0]} are coupled, and this method scores single weights; choose "
            "units with jsparse.prune.magnitude, random or keep_highest, or store a mask of each "
            "weight with jsparse.hold(model)"
        )
    return parts


def stored_parts(model: nnx.Module) -> dict[str, Sparse]:
    """All that has a stored mask: weights by path, groups of coupled units by name.

    Raises:
      TypeError: the model is not an nnx.Module.
      ValueError: there is none, or a weight or group is under another rule than `Held` or `Keep`.
    """
    parts = {
        part.name if isinstance(part, CoupledUnits) else path: part
        for path, part in ruled_parts(model).items()
        if not isinstance(part.rule, Keep | Follows)
    }
    for path, part in parts.items():
        if not isinstance(part.rule, Held):
            raise ValueError(
                f"{path} is under {rule_name(part.rule)}, which chooses its own mask; store "
                "the current masks with jsparse.hold(model), then prune"
            )
    if not parts:
        raise ValueError(
            "no weight can be pruned; choose weights with "
            "jsparse.sparsify(model, ('.*/kernel', jsparse.Held()))"
        )
    return parts


@explain_abstract_model
def magnitudes(model: nnx.Module) -> dict[str, Array]:
    """|w| of each weight under `Held` by path: float32 or wider, [...].

    Of groups of coupled units under `Held`, by name: the root mean square of each unit, [units].
    """
    weights = {
        path: shared_value(part, part.weight[...]) for path, part in stored_parts(model).items()
    }
    return {path: jnp.abs(w.astype(wide(w.dtype))) for path, w in weights.items()}


@outside_jit
def keep_highest(
    model: Model, scores: Arrays, density: float, choose: Selector = globally
) -> Model:
    """A copy of the model that keeps the weights with the highest scores.

    Masked weights stay masked: a model can become sparser, never denser.

    Args:
      model: a model with weights under `Held`.
      scores: their scores by path, [...] like the weight; of groups of coupled units by name,
        [units].
      density: fraction of all weights under `Held` to keep, in (0, 1].
      choose: which weights compete: `globally`, or `by_layer(budget)`.

    Returns:
      The model with new stored masks.

    Raises:
      ValueError: density out of range; scores that do not match the weights or are NaN; a layer
        that would lose its last weight.
    """
    check_density(density)
    check_choice(choose)
    model = copied(model)
    parts = stored_parts(model)
    check_mapping("scores by path, [...] like the weights", scores=scores)
    layers: dict[str, Array] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path, part in parts.items():
        with naming(path):
            score = _score(part, scores, path)
        for place in np.ndindex(score.shape[: _stack(part)]):
            name = path + "".join(f"[{n}]" for n in place)
            layers[name] = score[place]
            shapes[name] = role_shape(score[place].shape, part.rule.role)
    kept = chosen(choose, layers, density, shapes)
    names = iter(kept)
    for part in parts.values():
        shape = shared_value(part, part.weight[...]).shape
        here = [kept[next(names)] for _ in np.ndindex(shape[: _stack(part)])]
        mask = _stacked(here, shape, part.mask[...].dtype)
        whole = part.each(mask) if isinstance(part, CoupledUnits) else mask
        part.mask[...] = beside(whole, part.weight[...])
    share_cuts_in_place(model)
    return model


def _stack(part: Sparse) -> int:
    """The number of stacked axes of what a weight has of its own."""
    return 0 if isinstance(part, CoupledUnits) else part.rule.role.stack


def check_choice(choose: Selector) -> None:
    """Refuse a budget or a class in place of a choice."""
    budget = choose in (uniform, erdos_renyi, erdos_renyi_kernel)
    budget |= isinstance(choose, erdos_renyi_links)
    if budget or isinstance(choose, type) or not callable(choose):
        raise TypeError(
            f"choose got {shown(choose)}; pass jsparse.prune.globally, or "
            "jsparse.prune.by_layer(budget), such as jsparse.schedule.erdos_renyi_kernel"
        )


def chosen(choose: Selector, scores: Arrays, density: float, shapes: Shapes) -> dict[str, Array]:
    """What a selector keeps, bool by layer, without what was masked before, whose score is -inf.

    Raises:
      ValueError: a layer would lose all its weights.
    """
    kept = choose(scores, density, shapes)
    kept = {name: _without_masked(kept[name], score) for name, score in scores.items()}
    if dead := [name for name, mask in kept.items() if mask.size and not bool(mask.any())]:
        raise ValueError(
            f"at density {density} {', '.join(dead)} would lose all weights and block the signal "
            "(layer collapse); keep more, or give each layer its share with "
            "choose=jsparse.prune.by_layer(jsparse.schedule.erdos_renyi_kernel)"
        )
    return kept


@jax.jit
def _without_masked(kept: Array, score: Array) -> Array:
    return kept & (score > -jnp.inf)


def score_of(scores: Arrays, path: str, shape: tuple[int, ...], name: str = "score") -> Array:
    """The scores of a weight of this shape: [...]; the name is that of one of them in errors.

    Raises:
      ValueError: there are none, or of another shape.
    """
    if path not in scores:
        raise ValueError(f"has no {name}; available: {listed(scores)}")
    score = jnp.asarray(scores[path])
    if score.shape != shape:
        raise ValueError(f"the {name} has shape {score.shape}, but the weight {shape}")
    return score


def _score(part: Sparse, scores: Arrays, path: str) -> Array:
    """The scores of a weight, -inf where it is masked."""
    score = score_of(scores, path, shared_value(part, part.weight[...]).shape)
    there, lost = _where_kept(score, shared_value(part, part.mask[...]))
    if lost:
        raise ValueError(
            "scores are NaN; look for NaN in the weights, or in the loss on the batches"
        )
    return there


@jax.jit
def _where_kept(score: Array, mask: Array) -> tuple[Array, Array]:
    """Scores, -inf where a weight is masked; and whether any score is NaN."""
    return jnp.where(mask > 0, score, -jnp.inf), jnp.isnan(score).any()


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _stacked(layers: list[Array], shape: tuple[int, ...], dtype: Any) -> Array:
    """The mask of a weight from those of its stacked layers: [...] of this shape."""
    return jnp.stack(layers).reshape(shape).astype(dtype)


def role_shape(shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
    """(spatial..., inputs, outputs) of a weight."""
    outputs, inputs = role.output_axes(len(shape)), role.input_axes(len(shape))
    spatial = [n for axis, n in enumerate(shape) if axis not in outputs + inputs]
    size = lambda axes: int(np.prod([shape[a] for a in axes], dtype=np.int64))
    return (*spatial, size(inputs), size(outputs))
