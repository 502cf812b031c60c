"""Lottery tickets: iterative magnitude pruning.

1. Train.
2. Prune a part of the weights that are left, those of smallest magnitude.
3. Go back: to the weights of the start or of step k (`Rewind`), to the learning rate of the start
   with the weights as they are (`RewindRate`), to nothing (`FineTune`: weights and last learning
   rate stay), or, to see what the start was worth, to new random weights (`Reinitialise`).
4. Repeat.

Numbers: experiments/lottery.py, LeNet-300-100 on MNIST; the paper's figures are curves, not tables.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
from flax import nnx

from jsparse._surgery import hold, masks
from jsparse.prune._choice import (
    Arrays,
    Choice,
    check_choice,
    globally,
    keep_highest,
    magnitudes,
)
from jsparse.prune._folder import Keep, Nowhere
from jsparse.prune._rounds import Restart, Rewind, Round, Train, check_step, in_rounds

Model = TypeVar("Model", bound=nnx.Module)
REWIND, NOWHERE = Rewind(), Nowhere()


def lottery(
    model: Model,
    train: Train,
    densities: Sequence[float],
    *,
    restart: Restart = REWIND,
    choose: Choice = globally,
    score: Callable[[Model], Arrays] = magnitudes,
    keep: Keep = NOWHERE,
) -> Iterator[tuple[Round, Model]]:
    """Train and prune in turns, a ticket a round.

    Args:
      model: with weights under `Held`, not trained or trained to step k; left as it is.
      train: train(model, round) returns the trained model. The model is a copy; the learning rate
        starts at step `round.first` of the schedule. Optimizer and its state are its own.
      densities: fraction of the weights to keep after each pruning, as `each_round(0.8, 10)`.
      restart: `Rewind()`, `RewindRate()`, `FineTune(...)` or `Reinitialise(...)`.
      choose: who competes: `globally`, or `by_layer()`.
      score: of the trained weights, high = kept.
      keep: `Folder("runs/a")` to go on after a kill.

    Yields:
      Each round and the model that it trained; round 0 is not pruned. A round is run when it is
      asked for.

    Raises:
      ValueError: no weight under `Held`, densities that do not fall, other settings in the folder.

    Example:
      >>> from flax import nnx
      >>> import jsparse
      >>> from jsparse.prune import each_round
      >>> net = jsparse.sparsify(nnx.Linear(8, 5, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> train = lambda model, round: model  # yours
      >>> for round, ticket in lottery(net, train, each_round(0.5, 2)):
      ...     print(round.number, round.density)
      0 1.0
      1 0.5
      2 0.25

    Reference: Frankle and Carbin, The lottery ticket hypothesis, ICLR 2019; restarts compared by
      Renda et al., Comparing rewinding and fine-tuning in neural network pruning, ICLR 2020.
    """
    check_choice(choose)

    def prune(trained: Model, asked: float, number: int) -> Model:
        return keep_highest(trained, score(trained), asked, choose)

    settings = {"method": "lottery", "choose": choose, "score": score}
    return in_rounds(model, train, prune, restart, densities, keep, settings)


@dataclass(frozen=True, kw_only=True)
class _AsTrained:
    """Weights stay as trained; rounds after round 0 go on from a step of the schedule."""

    step: int

    def __post_init__(self) -> None:
        check_step(self, self.step)

    def first(self, number: int) -> int:
        return self.step if number else 0

    def restore(self, pruned: Model, start: Model, number: int) -> Model:
        return pruned


@dataclass(frozen=True, kw_only=True)
class RewindRate(_AsTrained):
    """Weights stay as trained; the learning rate starts over.

    Args:
      step: of the schedule, at which the rounds after round 0 start: 0 is the whole schedule, T - t
        its last t steps.

    Raises:
      ValueError: step below 0.

    Reference: Renda et al., 2020, section 3 (learning rate rewinding).
    """

    step: int = 0


@dataclass(frozen=True, kw_only=True)
class FineTune(_AsTrained):
    """Weights stay as trained, and so does the last learning rate.

    Args:
      step: the steps of a whole schedule: rounds after round 0 go on with what it gives from there.
        For a schedule that ends at 0 give an earlier step.

    Raises:
      ValueError: step below 0.

    Reference: Han et al., Learning both weights and connections, NIPS 2015; Renda et al., 2020.
    """


@dataclass(frozen=True, kw_only=True)
class Reinitialise:
    """The masks stay, all else is drawn anew at each round: what a ticket's start was worth.

    Args:
      make: builds the sparse model from `nnx.Rngs`, as the start was built, `sparsify` included.
      seed: of the draws; each round has its own.

    Reference: Frankle and Carbin, 2019, section 2 (random reinitialisation).
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    seed: int = 0

    def first(self, number: int) -> int:
        return 0

    def restore(self, pruned: Model, start: Model, number: int) -> Model:
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        return hold(self.make(nnx.Rngs(key)), masks(pruned))  # type: ignore[return-value]
