"""Alternating training and pruning: the loop shared by all methods that work in rounds.

1. Round 0 trains the given model.
2. Each further round prunes the model trained by the previous one, resets the remaining weights (to
   the initial weights, to new ones, or not at all) and trains again.
3. Each round stores its density and all variables of the trained model, masks and weights alike.
   The next round needs nothing else, so a run that was killed can be resumed.

Numbers: no figure of its own; see the methods that use this loop.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax import nnx

from jsparse._paths import named
from jsparse._storage.described import described
from jsparse._storage.tree_file import snapshot
from jsparse._surgery import Model, hold, masks
from jsparse._untraced import outside_jit
from jsparse._values import check_function, check_in, check_whole, shown
from jsparse.prune._choice import held_parts
from jsparse.prune._folder import RoundStore, check_keep, with_stored
from jsparse.prune._weights import held_masks, kept_share


class Round(NamedTuple):
    """One round of training.

    Attributes:
      number: number of the round; round 0 trains the model before any pruning.
      density: fraction of all weights under `Held` that are kept, as counted.
      first: the step of the learning-rate schedule at which training starts: pass an optimizer
        `lambda step: schedule(step + round.first)`.
    """

    number: int
    density: float
    first: int


Train = Callable[[Model, Round], Model]
"""The user's training function: it gets its own copy of the model, and returns it trained."""
Prune = Callable[[Model, float, int], Model]
"""(trained model, target density, number of the next round) -> a copy with fewer weights."""


class Restart(Protocol):
    """The weights and learning rate from which training continues after pruning."""

    def first(self, number: int) -> int:
        """The step of the learning-rate schedule at which a round starts."""
        ...

    def restore(self, pruned: Model, start: Model, number: int) -> Model:
        """The masks of `pruned` with the weights to train; round 0 began with `start`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """Reset all variables except the masks to their values at the start of round 0.

    For late rewinding, first train to step k, then pass that model to the method and k here: each
    round, including round 0, then starts at step k of the schedule.

    Args:
      step: step of the schedule at which all rounds start.

    Raises:
      ValueError: step below 0.

    Reference: Frankle and Carbin, The lottery ticket hypothesis, ICLR 2019; Frankle et al., Linear
      mode connectivity and the lottery ticket hypothesis, ICML 2020 (late rewinding).
    """

    step: int = 0

    def __post_init__(self) -> None:
        check_whole(0, step=self.step)

    def first(self, number: int) -> int:
        return self.step

    def restore(self, pruned: Model, start: Model, number: int) -> Model:
        return hold(start, masks(pruned))


REWIND = Rewind()


def each_round(kept: float, rounds: int) -> tuple[float, ...]:
    """Densities if each round keeps the same fraction of the remaining weights: kept, kept^2, ...

    Args:
      kept: fraction of the remaining weights that a round keeps, in (0, 1).
      rounds: number of times to prune.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> each_round(0.5, 3)
      (0.5, 0.25, 0.125)
    """
    check_in("(0, 1)", kept=kept)
    check_whole(rounds=rounds)
    return tuple(kept**n for n in range(1, rounds + 1))


@outside_jit
def in_rounds(
    model: Model,
    train: Train,
    prune: Prune,
    restart: Restart,
    densities: Sequence[float],
    keep: RoundStore,
    settings: Mapping[str, Any],
) -> Iterator[tuple[Round, Model]]:
    """The loop of a method: train, prune, restore, train, ...

    Args:
      model: a model with weights under `Held`; it is not changed.
      train: the user's training function.
      prune: the pruning function of the method; the same arguments must give the same result.
      restart: the weights and learning rate from which training continues.
      densities: target density of each pruning, decreasing; round 0 is not listed.
      keep: where rounds are stored.
      settings: settings of the method, for `keep` to compare.

    Yields:
      Each round and the model that it trained, round 0 first. Rounds run lazily, one per iteration.

    Raises:
      TypeError, ValueError: arguments are checked at the call, before the first round runs.
    """
    held_parts(model)
    if isinstance(restart, type):
        kind = restart.__name__
        raise TypeError(f"restart is the class {kind}; pass an instance: {kind}()")
    if not hasattr(restart, "restore"):
        raise TypeError(f"restart must be a restart, such as Rewind(); got {shown(restart)}")
    check_keep(keep)
    if isinstance(densities, str) or not isinstance(densities, Sequence):
        raise TypeError(
            f"densities must be one per round, such as (0.5, 0.25); got {shown(densities)}"
        )
    for density in densities:
        check_in("(0, 1]", densities=density)
    targets = [1.0, *map(float, densities)]
    if any(one <= other for one, other in itertools.pairwise(targets)):
        raise ValueError(
            f"densities got {targets[1:]}; they must start below 1 and decrease from round to "
            "round, as in jsparse.prune.each_round(0.8, rounds=10)"
        )
    check_function(train=train, prune=prune)
    start = hold(model)
    keep.open(
        {**described(dict(settings)), "restart": described(restart), "start": described(start)}
    )
    return _rounds(start, train, prune, restart, targets, keep)


def _rounds(
    start: Model,
    train: Train,
    prune: Prune,
    restart: Restart,
    densities: Sequence[float],
    keep: RoundStore,
) -> Iterator[tuple[Round, Model]]:
    trained = start
    for number, asked in enumerate(densities):
        if keep.has(number, asked):
            trained = keep.load(number, start)
        else:
            ticket = hold(start)
            if number:
                ticket = restart.restore(prune(trained, asked, number), start, number)
            before = {path: np.asarray(mask) for path, mask in held_masks(ticket).items()}
            current = Round(number, kept_share(before), restart.first(number))
            trained = _checked(train(ticket, current), start, before)
            layers = {path: np.count_nonzero(mask) / mask.size for path, mask in before.items()}
            facts = {"round": number, "asked": asked, "density": current.density, "layers": layers}
            keep.save(number, trained, facts)
        # a copy, which the caller may change
        yield Round(number, kept_share(held_masks(trained)), restart.first(number)), hold(trained)


def _checked(trained: Model, start: Model, before: Mapping[str, np.ndarray]) -> Model:
    """The model that `train` returned; it must have the structure and masks that it was given."""
    if not isinstance(trained, nnx.Module):
        raise TypeError(
            f"train returned {type(trained).__name__}; it must return the trained model, even if "
            "it trains the model in place"
        )
    wanted = named(nnx.state(start))  # variables that training added are left out
    found = {path: leaf for path, leaf in named(nnx.state(trained)).items() if path in wanted}
    advice = "train must return a model of the same structure"
    trained = with_stored(start, snapshot(found), "the model that train returned", advice)
    after = held_masks(trained)
    if changed := [path for path in before if not np.array_equal(before[path], after[path])]:
        raise ValueError(
            f"train changed the mask of {changed[0]}, but masks must not change in a round; remove "
            "jsparse.revise, or weight decay of all variables, from its optimizer"
        )
    return trained
