"""Training and pruning in turns: the loop that every method in rounds shares.

1. Round 0 trains the model as it comes.
2. Each further round prunes what the last one trained, sets back the weights that are left (to
   those of the start, or not at all, or to new ones) and trains again.
3. What each round leaves is kept: its density and every variable of the trained model, masks and
   weights alike. The next round needs no more, so a killed run goes on where it was.

Numbers: no figure of its own; the methods that use the loop name theirs.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from flax import nnx

from jsparse._checks import check_density
from jsparse._surgery import hold, masks
from jsparse.prune._choice import held_parts
from jsparse.prune._folder import Keep, arrays_of, described, with_arrays

Model = TypeVar("Model", bound=nnx.Module)


class Round(NamedTuple):
    """What a round is.

    Attributes:
      number: 0 for the model as it came.
      density: fraction kept of all weights under `Held`, counted.
      first: the step of the learning-rate schedule from which its training starts, so that an
        optimizer takes `lambda step: schedule(step + round.first)`.
    """

    number: int
    density: float
    first: int


Train = Callable[[Model, Round], Model]
"""The user's: trains the model it is given, a copy of its own, and returns it."""
Prune = Callable[[Model, float, int], Model]
"""(trained model, density asked for, number of the coming round) -> a copy with fewer weights."""


class Restart(Protocol):
    """From where weights and learning rate go on after pruning."""

    def first(self, number: int) -> int:
        """The step of the learning-rate schedule from which a round starts."""
        ...

    def restore(self, pruned: Model, start: Model, number: int) -> Model:
        """The masks of `pruned` with the weights to train; `start` is what round 0 began with."""
        ...


def check_step(restart: Restart, step: int) -> None:
    """Refuse what is no step of a schedule.

    Raises:
      ValueError: it is below 0, or no whole number.
    """
    if not isinstance(step, Integral) or step < 0:
        raise ValueError(
            f"{type(restart).__name__} got step {step}; give a step of the schedule, 0 or more"
        )


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """Every variable but the masks goes back to what round 0 began with.

    For late rewinding train to step k first, give the method that model, and k here: each round,
    round 0 too, then goes on from step k of the schedule.

    Args:
      step: of the schedule, at which all rounds start.

    Raises:
      ValueError: step below 0.

    Reference: Frankle and Carbin, The lottery ticket hypothesis, ICLR 2019; Frankle et al., Linear
      mode connectivity and the lottery ticket hypothesis, ICML 2020 (late rewinding).
    """

    step: int = 0

    def __post_init__(self) -> None:
        check_step(self, self.step)

    def first(self, number: int) -> int:
        return self.step

    def restore(self, pruned: Model, start: Model, number: int) -> Model:
        return hold(start, masks(pruned))


def each_round(kept: float, rounds: int) -> tuple[float, ...]:
    """Densities when each round keeps the same part of what is left: kept, kept^2, ...

    Args:
      kept: part of what is left that a round keeps, in (0, 1).
      rounds: how many times is pruned.

    Raises:
      ValueError: out of range.

    Example:
      >>> each_round(0.5, 3)
      (0.5, 0.25, 0.125)
    """
    if not 0 < kept < 1 or rounds < 1:
        raise ValueError(
            f"each_round got kept={kept}, rounds={rounds}; a round keeps a part in (0, 1) of what "
            "is left, such as 0.8, and there is one round or more"
        )
    return tuple(kept**n for n in range(1, rounds + 1))


def in_rounds(
    model: Model,
    train: Train,
    prune: Prune,
    restart: Restart,
    densities: Sequence[float],
    keep: Keep,
    settings: Mapping[str, Any],
) -> Iterator[tuple[Round, Model]]:
    """The loop of a method: trains, prunes, restores, trains, ...

    Args:
      model: with weights under `Held`; left as it is.
      train: the user's.
      prune: the method's; same result for the same arguments.
      restart: from where weights and learning rate go on.
      densities: asked for at each pruning, falling; 1.0 stands for round 0.
      keep: where rounds are kept.
      settings: of the method, for `keep` to compare.

    Yields:
      Each round and the model that it trained, round 0 first. A round is run when it is asked for;
      to stop, stop asking.

    Raises:
      TypeError, ValueError: arguments are checked at once, before the first round is asked for.
    """
    held_parts(model)
    if isinstance(restart, type):
        raise TypeError(f"restart is the class {restart.__name__}; give one: {restart.__name__}()")
    if not hasattr(keep, "open"):
        raise TypeError(f"keep got {keep!r}; give jsparse.prune.Folder({keep!r}) or Nowhere()")
    if not isinstance(densities, Sequence):
        raise TypeError(f"densities got {densities!r}; give one a round, such as (0.5, 0.25)")
    densities = [1.0, *map(check_density, densities)]
    if any(one <= other for one, other in itertools.pairwise(densities)):
        raise ValueError(
            f"densities got {densities[1:]}; they fall from round to round and start below 1, as "
            "jsparse.prune.each_round(0.8, rounds=10) does"
        )
    if not callable(train):
        raise TypeError(f"train is a function train(model, round) -> model; got {train!r}")
    start = hold(model)
    keep.open(
        {**described(dict(settings)), "restart": described(restart), "start": described(start)}
    )
    return _rounds(start, train, prune, restart, densities, keep)


def _rounds(
    start: Model,
    train: Train,
    prune: Prune,
    restart: Restart,
    densities: Sequence[float],
    keep: Keep,
) -> Iterator[tuple[Round, Model]]:
    trained = start
    for number, asked in enumerate(densities):
        if keep.has(number, asked):
            trained = keep.load(number, start)
        else:
            born = hold(start)
            if number:
                born = restart.restore(prune(trained, asked, number), start, number)
            before = {path: np.asarray(mask) for path, mask in masks(born).items()}
            told = Round(number, density(born), restart.first(number))
            trained = _checked(train(born, told), start, before)
            layers = {path: np.count_nonzero(mask) / mask.size for path, mask in before.items()}
            facts = {"round": number, "asked": asked, "density": told.density, "layers": layers}
            keep.save(number, trained, facts)
        # a copy, whatever is done with it before the next round is asked for
        yield Round(number, density(trained), restart.first(number)), hold(trained)


def density(model: nnx.Module) -> float:
    """Fraction kept of all weights under `Held`."""
    found = [np.asarray(mask) for mask in masks(model).values()]
    return sum(map(np.count_nonzero, found)) / sum(mask.size for mask in found)


def _checked(trained: Model, start: Model, before: Mapping[str, np.ndarray]) -> Model:
    """What `train` returned, with the structure of the start and the masks of the round."""
    if not isinstance(trained, nnx.Module):
        raise TypeError(
            f"train returned {type(trained).__name__}; it returns the trained model, also where it "
            "trained the model in place"
        )
    trained = with_arrays(start, *arrays_of(trained))
    after = masks(trained)
    changed = [path for path in before if not np.array_equal(before[path], after[path])]
    if changed:
        raise ValueError(
            f"train changed the mask of {changed[0]}; masks stay as they are within a round: take "
            "jsparse.revise, or weight decay of all variables, out of its optimizer"
        )
    return trained
