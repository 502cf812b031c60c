"""Every method of the library compared at four densities on one network.

Claim: none from a paper; a table to choose a method from. Methods that change or learn masks in
    training end ahead of masks chosen at initialization, the more so the sparser the network.

Methods: rules (masks made from the weights at each step), revisions (stored, dynamic masks),
    pruning at initialization, in rounds and in one shot; see each one's file for its paper. Methods
    that need a density per layer use the ERK budget; magnitude at birth does too, as the whole
    network's smallest weights would be all of one layer. All are trained alike, with Adam and a
    cosine learning rate; rounds and Powerpropagation train one more run before each density, and
    one-shot pruning nothing after it. L0, STR and soft movement cannot aim at a density: they have
    strengths, and are placed at the density these reached; where they stayed dense they are not
    plotted. Wanda and SparseGPT prune dense layers, so they are in the first table only. Not here:
    N:M rules, as groups of 5, 10, 20 or 50 fit no layer of these networks, and DropNet, which keeps
    units, not weights (see dropnet.py).

Command: python -m experiments.compare                         (LeNet-300-100 on MNIST)
         python -m experiments.compare --network resnet-20     (a GPU; CIFAR-10)
         python -m experiments.compare --network small         (a small convolutional net, CIFAR-10)
         python -m experiments.compare --quick                 (a part of MNIST, ten minutes)
"""

import dataclasses
import itertools
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from jsparse import prune, schedule

Network = Literal["lenet-300-100", "small", "resnet-20"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The residual network needs a GPU."""

    network: Network = "lenet-300-100"
    """The first is for MNIST, the others for CIFAR-10."""
    densities: tuple[float, ...] = (0.2, 0.1, 0.05, 0.02)
    """Of the weights under a mask, falling."""
    methods: tuple[str, ...] = ()
    """Only these, by their names in the table; all if empty."""
    seeds: int = 3
    epochs: int = 20
    batch: int = 100
    learning_rate: float = 1.2e-3
    """Of Adam, falling to 0 along a cosine."""
    quick: bool = False
    """LeNet-300-100 on a part of MNIST."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_densities(self.densities)
        if not all(a > b for a, b in itertools.pairwise(self.densities)):
            raise ValueError(f"--densities go from high to low; got {self.densities}")


QUICK = Settings(seeds=2, epochs=6, samples=10_000, quick=True)
NETWORKS: dict[str, tuple[Callable[[nnx.Rngs], nnx.Module], str]] = {
    "lenet-300-100": (networks.LeNet300, ".*/kernel"),
    "small": (partial(networks.SmallConvNet, channels=3, norm=nnx.LayerNorm), "convs/.*/kernel"),
    "resnet-20": (partial(networks.ResNet, 20), "blocks/.*/kernel"),
}
FAMILIES = {
    "masks from the weights": (
        "DST", "top", "Gibbs", "movement", "powerpropagation", "L0", "STR", "soft movement",
    ),
    "dynamic masks": ("gradual", "SET", "RigL", "Top-KAST", "ACDC"),
    "masks from initialization": (
        "random", "even", "magnitude at birth", "SNIP", "GraSP", "SynFlow",
    ),
    "in rounds": ("lottery", "fine-tuned"),
    "in one shot": ("magnitude", "Wanda", "SparseGPT"),
}  # fmt: skip
STRENGTHS = {"L0": (4e-6, 1.6e-5, 6.4e-5, 2.56e-4), "STR": (1e-3, 1e-2, 1e-1, 1.0),
             "soft movement": (3.0, 10.0, 30.0, 100.0)}  # fmt: skip
"""Prices of a weight, decays of s, and weights of the cost, where no density can be given."""
LEARNED_RATE = 10.0
"""Gates, scores and thresholds learn this much faster than weights: 1200 steps of Adam at the rate
of the weights move a logit by 0.7 at most, and 2 to 3 are needed to close a gate."""
BATCHES = 10
"""Batches that pruning at initialization reads."""
BY_BUDGET = prune.by_layer(schedule.erdos_renyi_kernel)
"""Each layer gets its share."""


class Entries:
    """Makes the contestants of one network.

    Args:
      settings: of the experiment.
      steps: train steps of a run.
      batches: what pruning at initialization reads, prepared images and labels.
    """

    def __init__(self, settings: Settings, steps: int, batches: list[tuple[jax.Array, jax.Array]]):
        self.network, self.pattern = NETWORKS[settings.network]
        self.steps, self.batches = steps, batches
        parts = jsparse.masks(self.held(nnx.Rngs(0)))
        self.shapes = {path: mask.shape for path, mask in parts.items()}

    def held(self, rngs: nnx.Rngs) -> nnx.Module:
        """The network with stored masks, all ones."""
        return jsparse.sparsify(self.network(rngs), (self.pattern, jsparse.Held()))

    def layers(self, by: Callable[[float], Any], density: float) -> list[tuple[str, Any]]:
        """Pairs of each layer's path and what `by` gives for its density."""
        budget = schedule.erdos_renyi_kernel(self.shapes, density)
        return [(re.escape(path), by(d)) for path, d in budget.items()]

    def ruled(self, by: Callable[[float], Any], density: float, **more: Any) -> common.Contestant:
        """Under a rule for each layer."""
        pairs = self.layers(by, density)
        return common.Contestant(
            lambda rngs: jsparse.sparsify(self.network(rngs), *pairs, rngs=rngs), **more
        )

    def revised(self, by: Callable[[float], Any], density: float, begin: Any) -> common.Contestant:
        """With stored masks that a revision changes."""
        return common.Contestant(self.held, revisions=tuple(self.layers(by, density)), begin=begin)

    def random(self, density: float) -> Callable:
        """A start with random masks."""
        return lambda new, _, seed: prune.random(
            new, density=density, key=jax.random.key(seed), choose=BY_BUDGET
        )

    def rules(self, density: float) -> dict[str, common.Contestant]:
        """Masks made from the weights at each step."""
        steps = self.steps
        beta = schedule.geometric(1.0, 1e4, first=0, last=round(0.64 * steps))
        falls = lambda d: schedule.cubic(1.0, d, round(0.1 * steps), round(0.7 * steps))
        power = lambda d: jsparse.Powerpropagation(density=d)
        pruned = lambda new, before, _: jsparse.sparsify(
            jsparse.fold(before), *self.layers(power, density)
        )
        target = jsparse.TargetDensity(density=density, steps=steps)
        threshold = lambda rngs: jsparse.sparsify(
            self.network(rngs), (self.pattern, jsparse.Threshold(alpha=1e-4))
        )
        return {
            "DST": common.Contestant(threshold, 1e-4, (target,)),
            "top": self.ruled(lambda d: jsparse.Top(density=d), density),
            "Gibbs": self.ruled(
                lambda d: jsparse.Gibbs(density=d, beta=beta, coupling=0.0), density
            ),
            "movement": self.ruled(lambda d: jsparse.Movement(density=falls(d)), density),
            "powerpropagation": self.ruled(
                power, density, begin=pruned, after="powerpropagation, dense"
            ),
        }

    def moving(self, density: float) -> dict[str, common.Contestant]:
        """Stored, dynamic masks."""
        steps, start = self.steps, self.random(density)
        full = lambda new, _, seed: new
        exchange = {"every": max(1, steps // 60), "last": round(0.75 * steps)}
        phases = {"first": round(0.1 * steps), "every": max(1, round(0.05 * steps))}
        gradual = partial(jsparse.Gradual, last=round(0.7 * steps), every=max(1, steps // 60))
        kast = lambda d: jsparse.TopKAST(density=d, backward=min(1.0, 2 * d), every=10)
        return {
            "gradual": self.revised(lambda d: gradual(density=d), density, full),
            "SET": self.revised(lambda d: jsparse.SET(**exchange), density, start),
            "RigL": self.revised(lambda d: jsparse.RigL(**exchange), density, start),
            "Top-KAST": self.revised(kast, density, start),
            "ACDC": self.revised(
                lambda d: jsparse.ACDC(density=d, last=round(0.85 * steps), **phases), density, full
            ),
        }

    def at_birth(self, density: float) -> dict[str, common.Contestant]:
        """Masks that are chosen before the first step."""
        held = lambda choice: common.Contestant(self.held, begin=choice)
        pick = lambda by, **more: held(lambda new, _, seed: by(new, density=density, **more))
        seen = {"loss": common.cross_entropy, "batches": self.batches}

        def even(new: nnx.Module, _: nnx.Module, seed: int) -> nnx.Module:
            budget = schedule.erdos_renyi_kernel(self.shapes, density)
            keys = jax.random.split(jax.random.key(seed), len(budget))
            wiring = {
                path: jsparse.USN(density=d).links(self.shapes[path], key)
                for (path, d), key in zip(budget.items(), keys, strict=True)
            }
            return jsparse.hold(new, wiring)

        return {
            "random": held(self.random(density)),
            "even": held(even),
            "magnitude at birth": pick(prune.magnitude, choose=BY_BUDGET),
            "SNIP": pick(prune.snip, **seen),
            "GraSP": pick(prune.grasp, **(seen | {"loss": calm_loss})),
            "SynFlow": pick(prune.synflow, shape=(1, *self.batches[0][0].shape[1:])),
        }

    def later(self, density: float, before: str) -> dict[str, common.Contestant]:
        """Pruned after training: in rounds, `before` being the previous round, or at once."""

        def rewound(new: nnx.Module, trained: nnx.Module, seed: int) -> nnx.Module:
            return jsparse.hold(new, jsparse.masks(smallest(trained)))

        smallest = lambda model: prune.magnitude(model, density=density)
        entry = partial(common.Contestant, self.held)
        seen = {"batches": self.batches, "density": density, "forward": lambda m, b: m(b[0])}
        at_once = lambda by: entry(
            begin=lambda _, trained, seed: by(trained), after="dense", rate=0.0
        )
        return {
            "lottery": entry(begin=rewound, after=(before and f"lottery, {before}") or "dense"),
            "fine-tuned": entry(
                begin=lambda _, trained, seed: smallest(trained),
                after=(before and f"fine-tuned, {before}") or "dense",
            ),
            "magnitude": at_once(smallest),
        } | (
            {
                "Wanda": at_once(lambda trained: prune.wanda(trained, **seen)),
                "SparseGPT": at_once(lambda trained: prune.sparsegpt(trained, **seen)),
            }
            if self.network is networks.LeNet300
            else {}
        )

    def strengths(self) -> dict[str, common.Contestant]:
        """Methods that take a strength instead of a density."""
        make = {
            "L0": lambda s: jsparse.HardConcrete(lam=s),
            "STR": lambda s: jsparse.SoftThreshold(decay=s),
            "soft movement": lambda s: jsparse.SoftMovement(lam=s),
        }
        return {
            f"{name}, {strength:g}": self.ruled(
                lambda _, s=strength, b=by: b(s), 1.0, learned_rate=LEARNED_RATE
            )
            for name, by in make.items()
            for strength in STRENGTHS[name]
        }


calm_loss = partial(common.cross_entropy, temperature=200.0)
"""As in the code of GraSP's authors."""


def contestants(entries: Entries, settings: Settings) -> dict[str, common.Contestant]:
    """By name "method, density" or "method, strength", in the order in which they are trained."""
    dense = lambda rngs: jsparse.sparsify(
        entries.network(rngs), (entries.pattern, jsparse.Powerpropagation())
    )
    made = {
        "dense": common.Contestant(entries.held),
        "powerpropagation, dense": common.Contestant(dense),
    }
    before = ""
    for density in settings.densities:
        for kind in (entries.rules, entries.moving, entries.at_birth):
            made |= {f"{name}, {density}": one for name, one in kind(density).items()}
        made |= {f"{name}, {density}": one for name, one in entries.later(density, before).items()}
        before = str(density)
    made |= entries.strengths()
    wanted = settings.methods or [name for names in FAMILIES.values() for name in names]
    return {
        name: one for name, one in made.items() if name == "dense" or name.split(", ")[0] in wanted
    }


def main(settings: Settings) -> None:
    """Train all contestants, print the table and draw the picture."""
    known = [name for names in FAMILIES.values() for name in names]
    unknown = [name for name in settings.methods if name not in known]
    if unknown:
        raise ValueError(f"--methods got {unknown[0]!r}; there are {', '.join(known)}")
    mnist = settings.network == "lenet-300-100"
    images = settings.images(datasets.mnist if mnist else datasets.cifar10)
    settings, out = settings.in_folder(
        f"runs/compare/{settings.network}{'-quick' * settings.quick}"
    )
    inputs = common.standardized(images, None if mnist else datasets.pad_crop_flip)
    steps = settings.epochs * (len(images.train_x) // settings.batch)
    rate = optax.cosine_decay_schedule(settings.learning_rate, steps)
    looked_at = (
        images.train_x[: BATCHES * settings.batch],
        images.train_y[: BATCHES * settings.batch],
    )
    parts = [np.array_split(array, max(1, len(array) // settings.batch)) for array in looked_at]
    batches = [(inputs.test(jnp.asarray(x)), jnp.asarray(y)) for x, y in zip(*parts, strict=True)]
    made = contestants(Entries(settings, steps, batches), settings)
    over = common.side_by_side if mnist else common.turns_on_cpu()
    found = common.compare(settings, made, optax.adam(rate), images, inputs, over)
    what = f"{settings.network}, {settings.extent}"
    print(f"{images.name}, {what}, last epoch (test data):\n")
    print(
        common.table(["", *(f"{100 * d:g} %" for d in settings.densities)], rows(found, settings))
    )
    panels = {family: shown_of(found, names) for family, names in FAMILIES.items()}
    panels = {family: methods for family, methods in panels.items() if methods}
    labels = ("weights left [%]", "test accuracy [%]")
    level = 100 * float(np.mean(found["dense"]["accuracy"]))
    common.draw(panels, out / "compare.png", *labels, log="x", level=level)
    common.show_pages(found, out, out / "compare.png")


def rows(found: common.Results, settings: Settings) -> list[list[str]]:
    """A line for each method, best first within its family; a column for each density."""
    lines = [["dense", common.percent(found["dense"]["accuracy"])]]
    for family, names in FAMILIES.items():
        if any(key.split(", ")[0] in names for key in found):
            lines.append([family])
        here = [n for n in names if f"{n}, {settings.densities[-1]}" in found]
        mean = lambda name: np.mean(found[f"{name}, {settings.densities[-1]}"]["accuracy"])
        for name in sorted(here, key=mean, reverse=True):
            marks = (found[f"{name}, {d}"] for d in settings.densities)
            lines.append([f"  {name}", *(common.percent(n["accuracy"]) for n in marks)])
        for name in names:
            for strength in STRENGTHS.get(name, ()):
                numbers = found.get(f"{name}, {strength:g}")
                if numbers:
                    density = f"at {100 * np.mean(numbers['density']):.1f} %:"
                    mark = f"{density} {common.percent(numbers['accuracy'])}"
                    lines.append([f"  {name}, strength {strength:g}", mark])
    width = 1 + len(settings.densities)
    return [line + [""] * (width - len(line)) for line in lines]


def shown_of(found: common.Results, names: tuple[str, ...]) -> dict[str, tuple]:
    """Density and accuracies in percent of each method of a family, over densities or strengths."""
    curves = {}
    for name in names:
        mine = [r for key, r in found.items() if key.split(", ")[0] == name]
        mine = sorted((r for r in mine if np.mean(r["density"]) < 1), key=lambda r: r["density"])
        if mine:
            x = [100 * np.mean(r["density"]) for r in mine]
            curves[name] = (x, [100 * np.array(r["accuracy"]) for r in mine])
    return curves


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
