"""Agents whose networks are sparse from the first step learn faster: dynamic sparse TD3.

Claim: at half the links, an agent with dynamic masks (DS) has a higher mean learning curve (LCA)
    than the dense one, and static masks are in between.

Paper: Sokar et al., Dynamic sparse training for deep reinforcement learning, IJCAI 2022. PUBLISHED
    has its tables 1 and 2 (a million steps, five seeds, v3 of the tasks, which differs slightly
    from v5). Its LCA is a sum over 201 evaluations in millions; here it is their mean.

Arms: dense; static, DS: the paper's links (the first two matrices of each network); RigL: grown by
    gradient; DS at 80 and 95 % (of the first two matrices, Erdos-Renyi); thresholds: learned.

Our choices: steps and updates alternate in stretches of 50, masks also apply to the forward
    pass, moments of new links start at 0, and masks are fixed in the last 5 % of the steps.
    Training FLOPs are 6 for each link, transition and update, those of the targets left out, as
    1.07e14 of the paper are.

Number (--arms dense DS static; 100,000 steps, 3 seeds): LCA of DS 3732 ± 315, static 3494 ± 153,
    dense 3247 ± 352; DS minus dense +754, +830, -128. In a later run RigL 3417 ± 31, thresholds
    3308 ± 419, DS at 80 % 3196 ± 14, at 95 % 2430 ± 203. Hopper: DS 677 ± 262, static 517 ± 116,
    dense 581 ± 91. Walker2d, 3 seeds: DS 481 ± 104, static 305 ± 39, dense 306 ± 67.

Command: python -m experiments.dynamic_td3            (HalfCheetah, 3 seeds; hours on two cores)
         python -m experiments.dynamic_td3 --quick    (20,000 steps, 3 arms, 1 seed: shows that it
         runs) python -m experiments.dynamic_td3 --steps 1000000 --random 25000 --episodes 10
         --seeds 5
             (the paper's; a GPU or several nights), --env Walker2d-v5 or Hopper-v5

Needs the extra `rl`.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

import jsparse
from experiments import common
from experiments.rl import gym, headline
from experiments.rl.networks import Kind, drawn, learned, links, weights
from experiments.rl.online import OnlineSettings, learn
from experiments.rl.td3 import Td3, Trainer

Arm = Literal["dense", "static", "DS", "RigL", "DS 80 %", "DS 95 %", "thresholds"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(OnlineSettings):
    """A run folder for each arm and seed."""

    env: str = "HalfCheetah-v5"
    """Of gymnasium."""
    arms: tuple[Arm, ...] = dataclasses.field(default=get_args(Arm), metadata=common.FREE)
    """Which agents."""
    alpha: float = 1e-5
    """Of the learned thresholds."""
    settle: float = 0.05
    """Fraction of the steps at the end in which masks are fixed."""
    td3: Td3 = dataclasses.field(default_factory=Td3)
    """Of the algorithm."""
    quick: bool = False
    """Few steps, one seed, three arms."""


QUICK = Settings(
    steps=20_000, random=5000, seeds=1, arms=("dense", "static", "DS"), episodes=1, quick=True
)
FIRST = {"Ant": 40, "Humanoid": 61}
"""Links for each input and output of the first matrix, by task; elsewhere 7."""
SECOND = 64
PUBLISHED = {
    ("HalfCheetah", "dense"): (11153, 473, 1.7686), ("HalfCheetah", "static"): (10584, 307, 1.7666),
    ("HalfCheetah", "DS"): (11460, 483, 1.9560), ("Walker2d", "dense"): (4042, 577, 0.5264),
    ("Walker2d", "static"): (3951, 444, 0.5167), ("Walker2d", "DS"): (4871, 525, 0.6956),
    ("Hopper", "dense"): (2185, 1224, 0.4788), ("Hopper", "static"): (3571, 44, 0.4984),
    ("Hopper", "DS"): (3587, 71, 0.5435), ("Ant", "dense"): (4288, 1081, 0.5524),
    ("Ant", "static"): (4149, 801, 0.5807), ("Ant", "DS"): (5012, 597, 0.6623),
    ("Humanoid", "dense"): (3809, 1053, 0.3635), ("Humanoid", "static"): (4989, 546, 0.5182),
    ("Humanoid", "DS"): (5238, 122, 0.6089),
}  # fmt: skip
"""By task and arm: return of the last ten evaluations, its deviation, and LCA."""
EVALUATIONS = 201
"""Of the paper's runs."""


def kinds(task: str, alpha: float) -> dict[str, Kind]:
    """How the networks of each arm are sparse."""
    paper = links(FIRST.get(task, 7), SECOND)
    moved = partial(jsparse.SET, by_sign=True)
    return {
        "dense": Kind(),
        "static": Kind(paper),
        "DS": Kind(paper, moved),
        "RigL": Kind(paper, jsparse.RigL),
        "DS 80 %": Kind(drawn(0.2), moved),
        "DS 95 %": Kind(drawn(0.05), moved),
        "thresholds": Kind(learned(alpha)),
    }


def trained(arm: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Scores of one run's evaluations, its links and FLOPs; from its folder if it is done."""
    folder = Path(settings.out) / arm / f"seed {seed}"
    run = common.open_run(folder, settings, arm=arm, seed=seed)
    if run.complete:
        return run.final()
    kind = kinds(settings.env.partition("-")[0], settings.alpha)[arm]
    last = settings.updates - round(settings.settle * settings.steps)
    trainer = Trainer(settings.td3, kind, *gym.sizes(gym.make(settings.env)), last)
    common.header(folder, f"TD3 on {settings.env}", 1, f"{settings.steps:,} steps")
    state, _ = learn(run, trainer, settings.env, settings, seed)
    agent = trainer.agent(state)
    actor, critic = weights(agent.actor), weights(agent.critic)
    kept, all_ = (sum(pair[n] for pair in (actor | critic).values()) for n in range(2))
    run.finish(
        scores=[row["score"] for row in run.rows()],
        links=kept,
        weights=all_,
        layers=actor | critic,
        flops=flops(actor, critic, settings),
    )
    return run.final()


def flops(actor: dict, critic: dict, settings: Settings) -> float:
    """Of all updates: forward and backward through both critics, and every other time the actor."""
    count = lambda network: sum(kept for kept, _ in network.values())
    return 6.0 * settings.td3.batch * settings.updates * (count(critic) + count(actor) / 2)


def show(found: dict[str, list[dict]], settings: Settings) -> None:
    """Print the table; the sign of DS against dense, by seed."""
    task = settings.env.partition("-")[0]
    rows = []
    for arm, runs in found.items():
        end, deviation, curve = PUBLISHED.get((task, arm), (0, 0, 0.0))
        rows.append(
            [
                arm,
                common.mean_std([last_ten(run) for run in runs], 0),
                common.mean_std([mean_curve(run) for run in runs], 0),
                f"{np.mean([run['links'] for run in runs]):,.0f}",
                f"{np.mean([run['links'] / run['weights'] for run in runs]):.1%}",
                f"{np.mean([run['flops'] for run in runs]):.2e}",
                f"{end} ± {deviation}" if end else "",
                f"{1e6 * curve / EVALUATIONS:.0f}" if end else "",
            ]
        )
    seeds = common.counted(settings.seeds, "seed")
    print(f"\n{settings.env}, {settings.steps:,} steps, {seeds}:\n")
    head = ["agent", "last ten", "LCA", "links", "of all", "FLOPs", "published", "LCA"]
    print(common.table(head, rows))
    if {"dense", "DS"} <= found.keys():
        pairs = zip(found["DS"], found["dense"], strict=True)
        gaps = [mean_curve(ds) - mean_curve(dense) for ds, dense in pairs]
        text = ", ".join(f"{gap:+.0f}" for gap in gaps)
        print(f"\nLCA of DS minus dense, seed by seed: {text}; mean {np.mean(gaps):+.0f}")
    arms = {
        arm: headline.Arm([run["links"] / run["weights"] for run in runs], [*map(mean_curve, runs)])
        for arm, runs in found.items()
    }
    print(f"\n{headline.by_sparsity('LCA', arms, digits=0)}")


def last_ten(run: dict) -> float:
    """Mean return of the last ten evaluations."""
    return float(np.mean(run["scores"][-10:]))


def mean_curve(run: dict) -> float:
    """Mean return over all evaluations."""
    return float(np.mean(run["scores"]))


def draw(found: dict[str, list[dict]], settings: Settings) -> list[Path]:
    """Learning curves, and return against density."""
    out, label = Path(settings.out), "return"
    places = [settings.evaluate * (n + 1) for n in range(settings.steps // settings.evaluate)]
    curves = {
        arm: (places, np.array([run["scores"] for run in runs]).T) for arm, runs in found.items()
    }
    points = {
        arm: (
            [100 * float(np.mean([run["links"] / run["weights"] for run in runs]))],
            [[last_ten(run) for run in runs]],
        )
        for arm, runs in found.items()
    }
    paths = [out / "curves.png", out / "density.png"]
    common.draw({settings.env: curves}, paths[0], "step", label)
    common.draw({settings.env: points}, paths[1], "links [% of all weights]", f"{label}, last ten")
    return paths


def main(settings: Settings) -> None:
    """Train all arms, seed by seed; print the table and draw the pictures."""
    name = f"{settings.env}, {settings.steps} steps"
    settings = dataclasses.replace(settings, out=settings.out or f"runs/dynamic_td3/{name}")
    found: dict[str, list[dict]] = {arm: [] for arm in settings.arms}
    for seed in range(1, settings.seeds + 1):
        for arm in settings.arms:
            found[arm].append(trained(arm, seed, settings))
    show(found, settings)
    paths = draw(found, settings)
    common.show_pages(common.logged(paths[0].parent), paths[0].parent, *paths)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
