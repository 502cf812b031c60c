"""Structured sparsity: five ways to choose filters, channels, blocks and N of M weights.

Claim: at the same number of weights, pruning single weights costs least and whole filters most, but
    only filters and channels leave a smaller dense network; which method is best depends on the
    unit.

Paper: none has this comparison. The methods: Dynamic Sparse Training (Liu et al. 2020, thresholds
    on units), Gibbs pruning (Labach and Valaee 2020), magnitude with a straight-through gradient,
    L0 with hard-concrete gates (Louizos et al. 2018), SR-STE (Zhou et al. 2021).

Command: python -m experiments.structured            (a GPU; ResNet-20 on CIFAR-10)
         python -m experiments.structured --quick    (two cores: a small net on a part of MNIST)
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import optax
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from jsparse import Block, Channel, Each, Filter, Groups

Name = Literal["DST", "Gibbs", "magnitude", "L0", "SR-STE"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The small net trains in seconds, the residual one needs a GPU."""

    network: Literal["resnet-20", "small"] = "resnet-20"
    """The small one is for MNIST."""
    methods: tuple[Name, ...] = ("DST", "Gibbs", "magnitude", "L0", "SR-STE")
    """Which to train."""
    densities: tuple[float, ...] = (0.5, 0.25, 0.125)
    """Of the convolutions except the first; as N:M they are 4:8, 2:8 and 1:8."""
    prices: tuple[float, ...] = (1e-6, 1e-5, 1e-4)
    """Of a weight, for L0, which cannot aim at a density."""
    seeds: int = 3
    epochs: int = 160
    batch: int = 128
    learning_rate: float = 1e-3
    """Of Adam; a tenth over the last fifth of the run."""
    samples: int = 50_000
    quick: bool = False
    """A small net on a part of MNIST."""

    def __post_init__(self) -> None:
        super().__post_init__()
        odd = [d for d in self.densities if not 0 < d < 1 or d * GROUP != round(d * GROUP)]
        if odd or not self.densities:
            raise ValueError(
                f"--densities are multiples of 1/{GROUP} between 0 and 1, for N:M; got "
                f"{self.densities}"
            )
        if not self.prices or min(self.prices) <= 0:
            raise ValueError(f"--prices are above 0, one or more; got {self.prices}")


GROUP = 8
QUICK = Settings(
    network="small",
    prices=(1e-4, 3e-4, 1e-3),
    seeds=1,
    epochs=8,
    batch=64,
    learning_rate=5e-3,
    samples=5000,
    quick=True,
)
# Layer norm in the small net: in a short run, batch statistics gathered under other masks do not
# suit the last ones.
NETWORKS = {
    "resnet-20": partial(networks.ResNet, 20),
    "small": partial(networks.SmallConvNet, norm=nnx.LayerNorm),
}
UNITS = {"filters": Filter(), "channels": Channel(), "4x4 blocks": Block((4, 4))}
SMALL, LARGE = (1.0, 1e4, 0.01), (10**-2.5, 1.0, 1.0)
"""Of Gibbs, the authors' for kernels and for filters: beta at the start and the end, coupling."""
ALPHA = 1e-3
"""Of the learned thresholds at the start; steered to the density."""
SPARSE = "(blocks|convs)/.*/kernel"


def contestants(settings: Settings, steps: int) -> dict[str, common.Contestant]:
    """By name "method, panel, strength"; `steps` is the length of a run."""
    make = NETWORKS[settings.network]

    def ruled(rule: jsparse.Rule, *controls: Any) -> common.Contestant:
        model = lambda rngs: jsparse.sparsify(make(rngs), (SPARSE, rule), rngs=rngs)
        alpha = rule.alpha if isinstance(rule, jsparse.Threshold) else 0.0
        return common.Contestant(model, alpha, controls)

    made = {"dense": common.Contestant(make)}

    def gibbs(kind: tuple[float, float, float], **structure: Any) -> common.Contestant:
        start, end, coupling = kind
        beta = jsparse.schedule.geometric(start, end, first=0, last=round(0.64 * steps))
        rule = jsparse.Gibbs(beta=beta, coupling=coupling, pairs_up_to=16, **structure)
        return ruled(rule)

    for panel, unit in UNITS.items():
        kind = SMALL if isinstance(unit, Block) else LARGE
        for density in settings.densities:
            made[f"DST, {panel}, {density}"] = ruled(
                jsparse.Threshold(alpha=ALPHA, unit=unit, scope=Each()),
                jsparse.TargetDensity(density=density, steps=steps),
            )
            made[f"Gibbs, {panel}, {density}"] = gibbs(kind, density=density, unit=unit)
            made[f"magnitude, {panel}, {density}"] = ruled(jsparse.Top(density=density, unit=unit))
        for price in settings.prices:
            rule = jsparse.HardConcrete(lam=price, unit=unit)
            made[f"L0, {panel}, {price:g}"] = ruled(rule)
    for density in settings.densities:
        options = {"density": density, "scope": Groups(GROUP)}
        panel = f"N of {GROUP}"
        made[f"Gibbs, {panel}, {density}"] = gibbs(SMALL, **options)
        made[f"magnitude, {panel}, {density}"] = ruled(jsparse.Top(**options))
        made[f"SR-STE, {panel}, {density}"] = ruled(jsparse.SRSTE(**options))
    keep = (*settings.methods, "dense")
    return {name: one for name, one in made.items() if name.split(", ")[0] in keep}


def main(settings: Settings) -> None:
    """Train all contestants, print the table and draw the picture."""
    small = settings.network == "small"
    images = settings.images(datasets.mnist if small else datasets.cifar10)
    settings, out = settings.in_folder(f"runs/structured/{settings.network}")
    inputs = common.standardized(images, None if small else datasets.pad_crop_flip)
    steps = settings.epochs * max(1, len(images.train_x) // settings.batch)
    rate = optax.piecewise_constant_schedule(settings.learning_rate, {round(0.8 * steps): 0.1})
    made = contestants(settings, steps)
    tx, turns = optax.adam(rate), common.turns_on_cpu()
    found = common.compare(settings, made, tx, images, inputs, turns)
    columns = ("density", "channels", "accuracy")
    rows = [[name, *(common.percent(found[name][c]) for c in columns)] for name in found]
    what = f"{settings.network}, {settings.extent}"
    print(f"{images.name}, {what}, last epoch (test data):\n")
    header = ["", "density [%]", "channels left [%]", "accuracy [%]"]
    print(common.table(header, rows))
    common.tradeoff(found, out, {"density": "weights", "channels": "channels"})


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
