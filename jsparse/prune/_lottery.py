"""Lottery tickets: iterative magnitude pruning.

1. Train.
2. Prune a fraction of the remaining weights, those of smallest magnitude.
3. Restart: from the initial weights or those of step k (`Rewind`); from the trained weights with
   the initial learning rate (`RewindRate`) or with the final one (`FineTune`); or, to measure the
   value of the initialization, from new random weights (`Reinitialize`).
4. Repeat.

Numbers: experiments/lottery.py, LeNet-300-100 on MNIST; the paper's figures are curves, not tables.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
from flax import nnx

from jsparse._surgery import Model, hold, masks
from jsparse._untraced import outside_jit
from jsparse._values import check_function, check_whole
from jsparse.prune._choice import Arrays, Selector, check_choice, globally, keep_highest, magnitudes
from jsparse.prune._folder import NOWHERE, RoundStore
from jsparse.prune._rounds import REWIND, Restart, Round, Train, in_rounds


@outside_jit
def lottery(
    model: Model,
    train: Train,
    densities: Sequence[float],
    *,
    restart: Restart = REWIND,
    choose: Selector = globally,
    score: Callable[[Model], Arrays] = magnitudes,
    keep: RoundStore = NOWHERE,
) -> Iterator[tuple[Round, Model]]:
    """Alternate between training and pruning; each round yields a ticket.

    Args:
      model: a model with weights under `Held`, untrained or trained to step k; it is not
        changed.
      train: train(model, round) returns the trained model. It gets a copy of the model, should
        start at step `round.first` of the learning-rate schedule, and makes its own optimizer.
      densities: fraction of the weights to keep after each pruning, such as `each_round(0.8, 10)`.
      restart: `Rewind()`, `RewindRate()`, `FineTune(...)` or `Reinitialize(...)`.
      choose: which weights compete: `globally`, or `by_layer()`.
      score: scores the trained weights, high = kept.
      keep: `Folder("runs/a")` to resume a run that was killed.

    Yields:
      Each round and the model that it trained; round 0 is not pruned. Rounds run lazily, one per
      iteration.

    Raises:
      ValueError: no weight under `Held`; densities that do not decrease; a folder with other
        settings.

    Example:
      >>> from flax import nnx
      >>> import jsparse
      >>> from jsparse.prune import each_round
      >>> net = jsparse.sparsify(nnx.Linear(8, 5, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> train = lambda model, round: model  # your training loop
      >>> for round, ticket in lottery(net, train, each_round(0.5, 2)):
      ...     print(round.number, round.density)
      0 1.0
      1 0.5
      2 0.25

    Reference: Frankle and Carbin, The lottery ticket hypothesis, ICLR 2019; for the restarts
      Renda et al., Comparing rewinding and fine-tuning in neural network pruning, ICLR 2020.
    """
    check_choice(choose)
    check_function(score=score)
    prune = lambda trained, asked, number: keep_highest(trained, score(trained), asked, choose)
    settings = {"method": "lottery", "choose": choose, "score": score}
    return in_rounds(model, train, prune, restart, densities, keep, settings)


@dataclass(frozen=True, kw_only=True)
class _WeightsAsTrained:
    """Weights stay as trained; rounds after round 0 start at a given step of the schedule."""

    step: int

    def __post_init__(self) -> None:
        check_whole(0, step=self.step)

    def first(self, number: int) -> int:
        return self.step if number else 0

    def restore(self, pruned: Model, start: Model, number: int) -> Model:
        return pruned


@dataclass(frozen=True, kw_only=True)
class RewindRate(_WeightsAsTrained):
    """Weights stay as trained; the learning-rate schedule is rewound.

    Args:
      step: step of the schedule at which the rounds after round 0 start: 0 repeats the whole
        schedule, T - t its last t steps.

    Raises:
      ValueError: step below 0.

    Reference: Renda et al., 2020, section 3 (learning rate rewinding).
    """

    step: int = 0


@dataclass(frozen=True, kw_only=True)
class FineTune(_WeightsAsTrained):
    """Weights stay as trained, and training continues with the final learning rate.

    Args:
      step: length of the schedule: rounds after round 0 continue with its values from there on. For
        a schedule that ends at 0, pass an earlier step.

    Raises:
      ValueError: step below 0.

    Reference: Han et al., Learning both weights and connections, NIPS 2015; Renda et al., 2020.
    """


@dataclass(frozen=True, kw_only=True)
class Reinitialize:
    """Keep the masks and reinitialize everything else: measures the value of the initialization.

    Args:
      make: builds the sparse model from `nnx.Rngs` as it was built at first, `sparsify` included.
      seed: seed of the new weights, which differ between rounds.

    Reference: Frankle and Carbin, 2019, section 2 (random reinitialization).
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    seed: int = 0

    def __post_init__(self) -> None:
        check_function(make=self.make)
        check_whole(0, seed=self.seed)

    def first(self, number: int) -> int:
        return 0

    def restore(self, pruned: Model, start: Model, number: int) -> Model:
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        return hold(self.make(nnx.Rngs(key)), masks(pruned))  # type: ignore[return-value]
