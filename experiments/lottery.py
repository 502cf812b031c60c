"""Lottery tickets of LeNet-300-100 on MNIST: what to rewind to after pruning, and how to train.

Claim: pruned in rounds, a network rewound to its first weights trains to the accuracy of the dense
    one far below its size, a reinitialized one does not; rewinding only the learning rate does as
    well as rewinding the weights or better, and fine-tuning worse where little is left. A peak of
    the learning rate that rises with the rounds (SILO, S-Cyc) does better than a constant one.

Number (--quick, 3 seeds, 92.82 when dense): at 6.25 % of the weights 92.34 rewound, 94.00 with the
    learning rate rewound, 90.81 fine-tuned, 86.19 reinitialized; rewound with SILO 94.14 and S-Cyc
    94.06, with cyclical rates of one peak 92.57, with one rate throughout 93.41. These runs are
    short: a higher peak throughout might do as well as a rising one, which is not tested here. The
    rates were raised after a first run had been inspected (0.1 to 0.3, SILO's end 0.23 to 0.7).
    There the order was the same and the gaps differed: 87.99 rewound, 92.11, 87.68 and 34.70; SILO
    90.83, S-Cyc 91.05, cyclical 88.43, one rate 89.81.

Paper: Frankle and Carbin, The lottery ticket hypothesis, ICLR 2019, figures 1 and 3; Renda et al.,
    Comparing rewinding and fine-tuning in neural network pruning, ICLR 2020, figure 1; Liu et al.,
    Optimizing learning rate schedules for iterative pruning of deep neural networks, TMLR 2023.
    The first two show curves, and the third has no LeNet-300-100, so no figure is printed for
    comparison. Data and optimizer are those of OpenLTH (SGD, no momentum); the last layer is not
    pruned.

Command: python -m experiments.lottery            (5 seeds, 8 ways, 20 rounds: hours on two cores)
         python -m experiments.lottery --quick    (two cores, about two minutes)
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from jsparse.prune import FineTune, Folder, Reinitialize, Restart, Rewind, RewindRate, Round
from jsparse.schedule import silo, triangle, warm_stairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The defaults are those of OpenLTH, with falls of the learning rate added."""

    seeds: int = 5
    epochs: int = 40
    batch: int = 128
    learning_rate: float = 0.1
    """Of SGD, at its peak; a tenth after half and again after three quarters of a round."""
    last_rate: float = 0.23
    """Peak that SILO and S-Cyc rise to; their authors' rises from 0.03 to 0.07."""
    kept: float = 0.8
    """Fraction of the remaining weights that each round keeps."""
    rounds: int = 20
    rewind_epoch: int = 1
    """The epoch that late rewinding returns to."""
    quick: bool = False
    """Few epochs on a part of MNIST, few rounds that halve the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        jsparse.prune.each_round(self.kept, self.rounds)
        if not 0 < self.rewind_epoch < self.epochs:
            raise ValueError(
                f"--rewind-epoch is at least 1 and below {self.epochs}, got {self.rewind_epoch}"
            )


QUICK = Settings(
    seeds=3,
    epochs=6,
    batch=50,
    learning_rate=0.3,
    last_rate=0.7,
    kept=0.5,
    rounds=6,
    samples=5000,
    quick=True,
)
SPARSE = "(fc1|fc2)/kernel"
ANEW = "new random weights"
"""Left out of the picture, which shows the others."""
Rate = Callable[[jax.Array, int], jax.Array]
"""(steps, round) -> learning rates."""


class Way(NamedTuple):
    """A way to continue after pruning.

    Attributes:
      restart: what it rewinds to.
      rate: the learning rate of the steps of a round.
      panel: of the picture.
    """

    restart: Restart
    rate: Rate
    panel: str


def sparse(model: common.Seeds) -> common.Seeds:
    """The networks with what is pruned under stored masks."""
    return jsparse.sparsify(model, (f".*/{SPARSE}", jsparse.Held()))


def drawn(rngs: nnx.Rngs, seeds: int) -> common.Seeds:
    """New networks from one stream of keys."""
    return sparse(common.Seeds([networks.LeNet300(rngs) for _ in range(seeds)]))


def ways(settings: Settings, steps: int) -> dict[str, Way]:
    """All of them by name; `steps` is the length of an epoch."""
    total, peak = settings.epochs * steps, settings.learning_rate
    late = settings.rewind_epoch * steps
    stairs = partial(warm_stairs, warm=total // 11, falls=(total // 2, 3 * total // 4))
    rising = silo(peak, settings.last_rate, settings.kept)
    triangles = partial(triangle, peak / 10, half=max(1, total // 4))
    same: Rate = lambda step, number: stairs(peak)(step)
    anew = partial(drawn, seeds=settings.seeds)
    back, rates = "what is restored", "learning rate, first weights restored"
    return {
        "first weights": Way(Rewind(), same, back),
        f"weights of epoch {settings.rewind_epoch}": Way(Rewind(step=late), same, back),
        "learning rate": Way(RewindRate(), same, back),
        "nothing (fine-tuning)": Way(FineTune(step=total), same, back),
        ANEW: Way(Reinitialize(make=anew), same, back),
        "constant": Way(Rewind(), lambda step, number: jnp.full(step.shape, peak), rates),
        "SILO": Way(Rewind(), lambda step, number: stairs(float(rising(number)))(step), rates),
        "cyclical": Way(Rewind(), lambda step, number: triangles(peak)(step), rates),
        "S-Cyc": Way(Rewind(), lambda step, n: triangles(float(rising(n)))(step), rates),
    }


def train(
    model: common.Seeds,
    round: Round,
    *,
    training: common.SeedTraining,
    rate: Rate,
    epochs: int,
    number: int,
) -> common.Seeds:
    """All seeds through the epochs of a round, from step `round.first` of the learning rate.

    Args:
      model: of all seeds.
      round: says where the learning rate starts.
      training: the compiled epoch.
      rate: learning rate by step and round.
      epochs: to train.
      number: of the round, for the order of the samples and the rate.
    """
    params, rest = training.start(model)
    seeds = len(common.networks(model))
    for epoch in range(epochs):
        step = round.first + epoch * training.steps + jnp.arange(training.steps)
        rates = jnp.broadcast_to(rate(step, number), (seeds, training.steps))
        order = training.shuffled(seeds, number, epoch)
        params, losses = training.epoch(params, rest, rates, order)
        if not np.isfinite(losses).all():
            raise common.Diverged(
                f"the loss is {losses.tolist()} in round {number}, epoch {epoch + 1}; try a "
                "smaller --learning-rate or --last-rate"
            )
    return training.put(model, params)


def pruned(
    name: str, way: Way, settings: Settings, training: common.SeedTraining, images: datasets.Images
) -> dict[str, list]:
    """Accuracy of each round and seed, and the densities, of one way; its run folder's if done."""
    run = common.open_run(Path(settings.out) / name, settings, dataset=images.name, way=name)
    if run.complete:
        return run.final()
    start = sparse(common.build(networks.LeNet300, settings.seeds))
    go = partial(train, training=training, rate=way.rate)
    epochs = settings.epochs
    if isinstance(way.restart, Rewind) and way.restart.step:
        start = go(start, Round(0, 1.0, 0), epochs=settings.rewind_epoch, number=0)
        epochs -= settings.rewind_epoch
    lottery = jsparse.prune.lottery(
        start,
        lambda model, round: go(model, round, epochs=epochs, number=round.number),
        jsparse.prune.each_round(settings.kept, settings.rounds),
        restart=way.restart,
        choose=common.per_seed(jsparse.prune.globally),
        keep=Folder(run.folder / "rounds", {"way": name, "epochs": epochs}),
    )
    densities, accuracies = [], []
    run.forget_after(0)  # finished rounds are read from their files
    common.header(run.folder, "LeNet300", settings.seeds, f"{settings.rounds + 1} rounds")
    progress = common.Epochs(0, settings.rounds + 1, name, "round")
    for _, (round, model) in zip(progress, lottery, strict=False):
        densities.append(round.density)
        accuracies.append(training.accuracy(model, images.test_x, images.test_y))
        density = [round.density] * settings.seeds
        run.log(round.number, accuracy=accuracies[-1], density=density)
        progress.show(accuracy=np.mean(accuracies[-1]), density=round.density)
    run.finish(densities=densities, accuracies=accuracies)
    return run.final()


def main(settings: Settings) -> None:
    """Prune in all ways, print the table and draw the picture."""
    images = settings.images(datasets.mnist)
    name = "quick" if settings.quick else "lenet-300-100"
    settings, out = settings.in_folder(f"runs/lottery/{name}")
    training = common.SeedTraining(images, settings.batch)
    made = ways(settings, training.steps)
    found = {name: pruned(name, way, settings, training, images) for name, way in made.items()}
    densities = found["first weights"]["densities"]
    shown = np.unique(np.linspace(0, settings.rounds, 7).astype(int))
    rows = [
        [name, *(common.percent(numbers["accuracies"][n]) for n in shown)]
        for name, numbers in found.items()
    ]
    seeds = common.counted(settings.seeds, "seed")
    print(f"\n{images.name}, {settings.epochs} epochs a round, {seeds}, test data:")
    print("accuracy [%] by weights left\n")
    print(common.table(["restored", *(f"{100 * densities[n]:.3g} %" for n in shown)], rows))
    panels: dict[str, dict] = {}
    for name, way in made.items():
        numbers = found[name]
        curve = (100 * np.array(numbers["densities"]), 100 * np.array(numbers["accuracies"]))
        panels.setdefault(way.panel, {})[name] = curve
    # its rate falls in each round, beside those that are made to differ
    panels[made["SILO"].panel]["falling"] = panels[made["first weights"].panel]["first weights"]
    path = out / "lottery.png"
    common.draw(panels, path, "weights left [%]", "test accuracy [%]", log="x")
    common.show_pages(made, path.parent, path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
