"""Agents that memorize their levels: the gap between training and test return, and sparsity.

Claim (the paper's): agents with the same training return differ greatly on unseen levels, down to
    the level of an untrained one; they memorize meaningless rewards; and random starts and sticky
    actions on the training levels do not reveal this. Ours is the question whether sparse networks
    narrow the gap at equal training return.

Paper: Zhang, Vinyals, Munos and Bengio, A study on overfitting in deep reinforcement learning,
    2018, arXiv 1804.06893, table 2 of which is PUBLISHED (a billion steps of A3C, the best of 20
    settings). Ours: PPO, a network of 512 and 128 units shared by policy and value, a few million
    steps at most, ended as soon as each seed has a training return of `until`.

Arms on `sparse` levels: dense; Erdos-Renyi masks at 80, 95 and 98 %; SET at 90 %; thresholds that
    are learned. Each is compared with the dense network where both first reach the same training
    return; in between, test returns are interpolated.

Number (3 seeds, 3.9 million steps): 10 levels: train 1.87 ± 0.05, test -0.64 ± 0.09; sticky actions
    1.64 ± 0.06 do not reveal it, random starts 1.05 ± 0.22 do. 1,000 levels: train 1.60 ± 0.03,
    test 1.08 ± 0.06. 10 levels, flips 0.5: train 1.82 ± 0.25, test -0.69 ± 0.02. Gap at train 1:
    dense 1.52 ± 0.05, 80 % 1.49 ± 0.02, 95 % 1.50 ± 0.09, SET 90 % 1.47 ± 0.11, thresholds (56 %)
    1.46 ± 0.04, no difference beyond the noise; 98 % is at 0.29 after 2.4 million. Minutes of
    processor time: 40; the defaults, of which no numbers are given, take 13, --quick 1.5.

Command: python -m experiments.overfit_maze            (two seeds; --millions 4 for 1,000 levels)
         python -m experiments.overfit_maze --quick    (one seed, 10 and 100 levels, two arms)
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.rl import headline
from experiments.rl.environments import maze
from experiments.rl.networks import Grids, Kind, Trunk, kinds, weights
from experiments.rl.policies import Choice
from experiments.rl.ppo import Ppo, Trainer
from experiments.rl.rollout import Report

Arm = Literal["dense", "80 %", "95 %", "98 %", "SET 90 %", "thresholds"]
WIDTH, STRETCH, RECENT, UNSEEN = (512, 128), 32, 8, 1000
"""Units; iterations between evaluations; the last of them, whose episodes are the training return;
levels of the test."""
LEVELS = [0.5, 1.0, 1.5]
"""Training returns at which arms are compared, beside `equal`."""
PUBLISHED = {
    (10, 0.0): (2.1, -0.6, -0.1), (100, 0.0): (2.1, 0.9, 1.2), (1000, 0.0): (2.1, 1.6, 2.0),
    (10, 0.5): (2.1, -0.4, -0.6), (100, 0.5): (2.0, -0.4, -0.6), (1000, 0.5): (2.0, -0.2, -0.1),
}  # fmt: skip
"""By levels and flips: training and test return of the MLP, and test return of the ConvNet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """A run folder for each number of levels, flips and arm, with all seeds."""

    levels: tuple[int, ...] = dataclasses.field(default=(10, 100, 1000), metadata=common.FREE)
    """Numbers of training levels."""
    flips: tuple[float, ...] = dataclasses.field(default=(0.0, 0.5), metadata=common.FREE)
    """Probabilities that the sign of a reward is flipped, in training levels."""
    arms: tuple[Arm, ...] = dataclasses.field(default=get_args(Arm), metadata=common.FREE)
    """Networks that are compared."""
    sparse: int = dataclasses.field(default=10, metadata=common.FREE)
    """Training levels of these."""
    seeds: int = 2
    millions: float = dataclasses.field(default=1.6, metadata=common.FREE)
    """Of steps of a dense network, at most."""
    sparse_millions: float = 0.8
    """Of a sparse one; masks are fixed in the last quarter."""
    until: float = dataclasses.field(default=1.85, metadata=common.FREE)
    """Training return that ends a run of the dense network."""
    equal: float = dataclasses.field(default=1.0, metadata=common.FREE)
    """Training return at which arms are compared; theirs end half a point later."""
    alpha: float = 3e-5
    """Of the learned thresholds."""
    episodes: int = 200
    """Of a test; five times as many at the end."""
    ppo: Ppo = dataclasses.field(default_factory=Ppo)
    """Of the algorithm."""
    quick: bool = False
    """One seed, few steps, two arms."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "episodes", "sparse")
        if not self.levels or min(self.levels) < 1:
            raise ValueError(f"--levels got {self.levels}; give numbers of 1 or more")
        if not all(0 <= flip < 1 for flip in self.flips):
            raise ValueError(f"--flips got {self.flips}; give probabilities in [0, 1)")
        least = self.stride / 1e6
        if min(self.millions, self.sparse_millions) < least:
            raise ValueError(
                f"--millions and --sparse-millions got {self.millions} and {self.sparse_millions}; "
                f"give {least:g} or more"
            )

    @property
    def stride(self) -> int:
        """Steps between evaluations."""
        return STRETCH * self.ppo.copies * self.ppo.steps

    def stretches(self, arm: Arm) -> int:
        """At most."""
        millions = self.millions if arm == "dense" else self.sparse_millions
        return int(1e6 * millions / self.stride)


QUICK = Settings(
    levels=(10, 100), flips=(0.0,), arms=("dense", "80 %"), seeds=1, millions=0.7,
    sparse_millions=0.7, quick=True,
)  # fmt: skip
VARIANTS = {
    "sticky actions": {"sticky": jnp.float32(maze.STICKY)},
    "random starts": {"anywhere": jnp.array(True)},
}
"""Of the training levels, in which a trained agent is judged."""


def kind(arm: Arm, alpha: float) -> Kind:
    """How the network of an arm is sparse."""
    if arm in ("dense", "thresholds"):
        return kinds(1.0, alpha)[arm]
    how, percent = ("SET", arm[4:]) if arm.startswith("SET") else ("Erdos-Renyi", arm)
    return kinds(1 - float(percent.removesuffix(" %")) / 100, alpha)[how]


@lru_cache
def trainer(arm: Arm, ppo: Ppo, alpha: float, stretches: int) -> Trainer:
    """Of an arm; kept, so that it is compiled once."""
    policy = Choice(maze.ACTIONS)
    network = lambda rngs: Trunk(maze.OBSERVED, policy.outputs, 1, WIDTH, rngs, Grids)
    last = round(0.75 * stretches * STRETCH * ppo.passes * ppo.batches)
    return Trainer(ppo, policy, network, kind(arm, alpha), last)


def mazes(levels: int, flip: float, seeds: Sequence[int]) -> tuple[maze.Maze, maze.Maze]:
    """Training and test levels of each seed; the latter are never flipped."""
    pairs = []
    for seed in seeds:
        trained = maze.levels(levels, flip, 1000 * seed)
        pairs.append((trained, maze.levels(UNSEEN, 0.0, 1000 * seed + 1, trained)))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)


def trained(levels: int, flip: float, arm: Arm, settings: Settings) -> dict[str, Any]:
    """Returns of all seeds at each evaluation and at the end; from its folder if it is done."""
    name = f"{levels} levels, flips {flip:g}, {arm}"
    run = common.open_run(Path(settings.out) / name, settings, trained=[levels, flip, arm])
    if run.complete:
        return run.final()
    seeds, limit = range(1, settings.seeds + 1), settings.stretches(arm)
    own = trainer(arm, settings.ppo, settings.alpha, limit)
    known, unseen = mazes(levels, flip, seeds)
    until = settings.until if arm == "dense" else settings.equal + 0.5
    done, learner = run.load(own.begin(seeds, known))
    judge = lambda where, step, count=settings.episodes: np.asarray(
        own.play(learner, where, jax.random.key(step), count, maze.LIMIT)
    ).mean(axis=1)
    length = f"at most {limit - done} stretches of {STRETCH} iterations"
    common.header(run.folder, "agents in mazes", settings.seeds, length)
    stretches = common.Epochs(done, limit, name, "stretch")
    for stretch in stretches:
        if (last := run.rows()[-1:]) and min(last[0]["train"]) >= until:
            break
        learner, report = own.learn(learner, known, iterations=STRETCH)
        common.check_finite(float(np.sum(report.loss)), stretch, {}, run)
        found = {"train": recent(report), "test": judge(unseen, stretch)}
        run.log(stretch, **found)
        run.save(stretch, learner)
        stretches.show(**{side: one.mean() for side, one in found.items()})
    many = 5 * settings.episodes
    ends = {"train": judge(known, 0, many), "test": judge(unseen, 0, many)}
    for variant, changed in VARIANTS.items():
        shape = [settings.seeds]
        changed = {name: jnp.broadcast_to(one, shape) for name, one in changed.items()}
        ends[variant] = judge(dataclasses.replace(known, **changed), 0, many)
    networks = [own.agent(learner, n).network for n in range(settings.seeds)]
    counts = [np.sum(list(weights(network).values()), axis=0) for network in networks]
    rows = run.rows()
    run.finish(
        **{side: [row[side] for row in rows] for side in ("train", "test")},
        ends=ends,
        kept=[one / every for one, every in counts],
        steps=[row["step"] * settings.stride for row in rows],
    )
    return run.final()


def recent(report: Report) -> np.ndarray:
    """[seeds], mean return of the episodes that ended in the last iterations."""
    count, score = (np.asarray(one)[:, -RECENT:] for one in (report.episodes, report.score))
    return (count * np.nan_to_num(score)).sum(axis=1) / np.maximum(count.sum(axis=1), 1)


def at(run: dict[str, Any], level: float) -> np.ndarray:
    """[seeds], test return where the training return first reaches a level; nan where never, or
    where it was beyond at the first evaluation."""
    train, test = np.array(run["train"]), np.array(run["test"])
    found = np.full(train.shape[1], np.nan)
    for seed, (x, y) in enumerate(zip(train.T, test.T, strict=True)):
        if x[0] <= level <= x.max():
            n = int((x >= level).argmax())
            before = max(n - 1, 0)
            share = 1.0 if n == before else (level - x[before]) / (x[n] - x[before])
            found[seed] = y[before] + share * (y[n] - y[before])
    return found


Claim = tuple[tuple[int, float], str, Callable[[dict], Any], tuple[str, ...]]


def hidden(variant: str) -> Claim:
    """That a variant of the training levels does not reveal overfitting."""
    holds = lambda ends: (np.abs(ends[variant] - ends["train"]) <= 0.5) & (ends["test"] <= 0)
    text = f"{variant} within 0.5 of train, test at most 0"
    return (10, 0.0), text, holds, ("train", variant, "test")


CLAIMS: tuple[Claim, ...] = (
    ((10, 0.0), "train at least 1.5, test at most 0",
     lambda ends: (ends["train"] >= 1.5) & (ends["test"] <= 0), ("train", "test")),
    ((1000, 0.0), "test at least 0.9", lambda ends: ends["test"] >= 0.9, ("train", "test")),
    ((10, 0.5), "train at least 1.8, test at most 0",
     lambda ends: (ends["train"] >= 1.8) & (ends["test"] <= 0), ("train", "test")),
    *map(hidden, VARIANTS),
)  # fmt: skip
"""Levels and flips, what is claimed of the returns at the end, and which of them are printed."""


def acceptance(found: dict[tuple[int, float], dict]) -> list[str]:
    """The outcome of the paper's claims here."""
    lines = []
    for (levels, flip), claim, holds, sides in CLAIMS:
        if run := found.get((levels, flip)):
            ends = {side: np.array(values) for side, values in run["ends"].items()}
            numbers = ", ".join(f"{side} {common.mean_std(ends[side])}" for side in sides)
            lines.append(
                headline.verdict(f"{levels} levels, flips {flip:g}: {claim}", holds(ends), numbers)
            )
    return lines


def show(found: dict, arms: dict[Arm, dict], settings: Settings) -> None:
    """Tables and verdicts."""
    rows = []
    for (levels, flip), run in found.items():
        ends, paper = run["ends"], PUBLISHED.get((levels, flip), ("", "", ""))
        sides = [common.mean_std(ends[side]) for side in ("train", "test", *VARIANTS)]
        rows.append([f"{levels}, {flip:g}", f"{run['steps'][-1] / 1e6:.1f}", *sides, *paper])
    print(f"\nReturns, {common.counted(settings.seeds, 'seed')}; best possible {maze.BEST}:\n")
    head = ["levels, flips", "million steps", "train", "test", *VARIANTS]
    print(common.table([*head, "published train", "test", "test of ConvNet"], rows))
    print("\n" + "\n".join(acceptance(found)))
    levels = sorted({*LEVELS, settings.equal})
    rows = [
        [arm, f"{1 - np.mean(run['kept']):.1%}", f"{run['steps'][-1] / 1e6:.1f}"]
        + [mean_known(at(run, level)) for level in levels]
        for arm, run in arms.items()
    ]
    print(f"\nTest return at equal training return, {settings.sparse} levels:\n")
    head = ["network", "sparsity", "million steps", *(f"train {level:g}" for level in levels)]
    print(common.table(head, rows) + "\n")
    gaps = {arm: settings.equal - at(run, settings.equal) for arm, run in arms.items()}
    for arm, gap in gaps.items():
        if arm != "dense" and "dense" in gaps and not np.isnan(change := gap - gaps["dense"]).any():
            text = ", ".join(f"{one:+.2f}" for one in change)
            print(
                headline.verdict(
                    f"{arm}: a smaller gap than dense", change < 0, f"differences {text}"
                )
            )
    table = {arm: headline.Arm(arms[arm]["kept"], gap[~np.isnan(gap)]) for arm, gap in gaps.items()}
    metric = f"training return {settings.equal:g} minus test return"
    print(f"\n{headline.by_sparsity(metric, table)}")


def mean_known(values: np.ndarray) -> str:
    """Over the seeds that reached it."""
    known = values[~np.isnan(values)]
    few = f", {len(known)} of {len(values)}" if 0 < len(known) < len(values) else ""
    return common.mean_std(known) + few if len(known) else "not seen"


def draw(found: dict, arms: dict[Arm, dict], settings: Settings) -> Path:
    """Test return against training return."""
    places = np.arange(-0.5, 2.05, 0.125)
    curve = lambda run: (places, np.array([at(run, x) for x in places]))
    panels = {
        f"flips {flip:g}, dense": {
            f"{levels} levels": curve(found[levels, flip]) for levels in settings.levels
        }
        for flip in settings.flips
    }
    panels |= {f"{settings.sparse} levels": {arm: curve(run) for arm, run in arms.items()}}
    path = Path(settings.out) / "returns.png"
    common.draw(panels, path, "training return", "test return")
    return path


def main(settings: Settings) -> None:
    """Train what is not trained yet; print the tables and draw the picture."""
    out = settings.out or f"runs/overfit_maze{'/quick' * settings.quick}"
    settings = dataclasses.replace(settings, out=out)
    run = partial(trained, settings=settings)
    found = {
        (levels, flip): run(levels, flip, "dense")
        for levels in settings.levels
        for flip in settings.flips
    }
    own = {"dense": found.get((settings.sparse, 0.0))}
    arms = {arm: own.get(arm) or run(settings.sparse, 0.0, arm) for arm in settings.arms}
    show(found, arms, settings)
    path = draw(found, arms, settings)
    common.show_pages(common.logged(path.parent), path.parent, path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
