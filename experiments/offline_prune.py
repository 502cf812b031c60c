"""Pruned once, before it learns from stored data: single-shot pruning of offline agents.

Claim: at 5 % of the weights, agents pruned at initialization come within a tenth of the dense
    agent. They did; uniform random masks, at 5 % of each layer, did not.

Paper: Arnob et al., Single-shot pruning for offline reinforcement learning, 2021, on D4RL data,
    which have to be downloaded; here the data are our own agent's, so there is no published number.

Data: transitions of a dense TD3 agent acting with noise, after `--early` steps ("early") and after
    `--steps` ("medium"), or all that it saw ("replay"). Each is written once, as
    DATA/ENV-QUALITY-TRANSITIONS.npz, and reused if it exists.

Arms: dense; pruned by SNIP, GraSP, SynFlow, magnitude, or at random (Erdos-Renyi, uniform); and
    ours: SET from the Erdos-Renyi masks. Methods that take all of a layer ("collapsed") are not
    trained. Scores: 100 (R - R_random) / (R_expert - R_random), with D4RL's constants.

Number (BC, 3 seeds, D4RL score): dense 50.2 ± 0.3; at 5 % Erdos-Renyi 50.6 ± 0.9, SNIP 48.7 ± 2.8,
    GraSP 46.6 ± 6.2, random 32.0 ± 7.8; at 1 % SynFlow 40.7 ± 13.0, GraSP 9.2 ± 6.1, random 1.5 ±
    0.1. IQL on the same data: 51.7 ± 1.2; at 5 % Erdos-Renyi 50.6 ± 1.1, SNIP 44.6 ± 6.4, GraSP
    39.8 ± 13.8; at 1 % GraSP 11.9 ± 11.4. TD3+BC on data of another agent: 41.1 ± 5.2; at 5 % SNIP
    38.9 ± 4.9, GraSP 31.2 ± 9.9, random 11.5 ± 8.8; at 1 % GraSP 13.7 ± 10.8. TD3+BC and IQL at 20
    and 2 %, other tasks: not run.

Command: python -m experiments.offline_prune       (BC and TD3+BC, 3 seeds; hours; --algorithms IQL)
         python -m experiments.offline_prune --quick                (BC, keeps 5 and 1 %, 1 seed)
         --quality early or replay, --env Walker2d-v5 or Hopper-v5; needs the extra `rl`
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

import jsparse
from experiments import common
from experiments.rl import gym, headline, iql
from experiments.rl.births import Births, Loss, pruned
from experiments.rl.iql import Iql
from experiments.rl.networks import Kind, weights
from experiments.rl.offline import Learner, Scale, cloner, distance, near_data_losses, scale_of
from experiments.rl.online import OnlineSettings, learn
from experiments.rl.replay import Batch, Replay
from experiments.rl.td3 import DELAY, Td3, Trainer, near_data

Algorithm = Literal["BC", "TD3+BC", "IQL"]
Method = Literal["SNIP", "GraSP", "SynFlow", "Erdos-Renyi", "random", "magnitude", "SET"]
Quality = Literal["early", "medium", "replay"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(OnlineSettings):
    """Of the agent that makes the data, and of those that learn from them."""

    env: str = "HalfCheetah-v5"
    """Of gymnasium."""
    quality: Quality = "medium"
    """Of the data."""
    transitions: int = 60_000
    """In the data."""
    steps: int = 100_000
    """Of the agent that makes them."""
    early: int = 20_000
    """Steps of the agent that makes early ones."""
    algorithms: tuple[Algorithm, ...] = dataclasses.field(
        default=("BC", "TD3+BC"), metadata=common.FREE
    )
    """What learns from them."""
    methods: tuple[Method, ...] = dataclasses.field(default=get_args(Method), metadata=common.FREE)
    """What prunes."""
    densities: tuple[float, ...] = dataclasses.field(
        default=(0.2, 0.05, 0.02, 0.01), metadata=common.FREE
    )
    """Of all weights of a network."""
    updates_each: int = 20_000
    """Of an agent that learns from data."""
    judged: int = 5
    """Episodes of its evaluation."""
    alpha: float = 2.5
    """Of TD3+BC."""
    iql: Iql = dataclasses.field(default_factory=Iql)
    """Of IQL."""
    td3: Td3 = dataclasses.field(default_factory=lambda: Td3(batch=256, decay=0.0))
    """Of the agents that learn from data."""
    quick: bool = False
    """Less of everything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("transitions", "updates_each", "judged")
        if not self.densities or not all(0 < d < 1 for d in self.densities):
            raise ValueError(f"--densities are fractions in (0, 1), got {self.densities}")


QUICK = Settings(
    steps=10_000, random=5000, transitions=15_000, algorithms=("BC",), densities=(0.05, 0.01),
    updates_each=5000, seeds=1, episodes=1, judged=2, quick=True,
)  # fmt: skip
D4RL = {
    "HalfCheetah": (-280.178953, 12135.0), "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
}  # fmt: skip
"""Return of a random policy and of an expert."""
LEARNED = 10
"""Score of a dense agent from which others are compared with it."""
STRETCH = 50
"""Updates of one call."""


class Data(NamedTuple):
    """Transitions, with the scale of their observations."""

    replay: Replay
    scale: Scale


def data(settings: Settings) -> Data:
    """From the file, which is created if it is missing."""
    folder = Path(settings.data or Path(settings.out) / "data")
    name = f"{settings.env}-{settings.quality}-{settings.transitions}.npz"
    if not (folder / name).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rows = collected(settings)
        np.savez(folder / f".{name}.part.npz", **rows._asdict())
        (folder / f".{name}.part.npz").rename(folder / name)
    with np.load(folder / name) as file:
        rows = Batch(*(file[column] for column in Batch._fields))
    replay = Replay(1, rows.observation.shape[1], rows.action.shape[1])
    replay.restore(rows, len(rows.reward))
    return Data(replay, scale_of(rows.observation))


def collected(settings: Settings) -> Batch:
    """The transitions of the agent that makes the data."""
    steps = settings.early if settings.quality == "early" else settings.steps
    settings = dataclasses.replace(settings, steps=steps)
    run = common.open_run(Path(settings.out) / f"agent, {steps} steps", settings)
    made = gym.make(settings.env)
    trainer = Trainer(Td3(), Kind(), *gym.sizes(made), last=1)
    state, seen = learn(run, trainer, settings.env, settings, seed=1)
    if settings.quality == "replay":
        count = min(settings.transitions, seen.filled)
        return Batch(*(column[:count] for column in seen.rows))
    layers = jax.device_get(trainer.layers(state))
    rows = Replay(settings.transitions, trainer.observed, trainer.actions)
    for step in gym.Walk(made, 1).steps(settings.transitions, layers, settings.noise):
        rows.add(*step[:-1])
    return rows.rows


class Study:
    """All agents of one algorithm and seed: they start from the same dense networks."""

    def __init__(self, algorithm: str, seed: int, settings: Settings, given: Data):
        self.algorithm, self.seed, self.settings, self.data = algorithm, seed, settings, given
        self.objective = near_data(settings.alpha)
        self.moved = partial(jsparse.SET, by_sign=True)
        self.unit = iql.reward_scale(given.replay.rows) if algorithm == "IQL" else 1.0
        self.still = self._trainer(Kind())
        random = np.random.default_rng(seed)
        batch = self._drawn(random, settings.td3.batch)
        networks = self.still.networks(seed)
        pairs = zip(networks, self._losses(networks), strict=True)
        self.births = tuple(Births(one, loss, batch, seed) for one, loss in pairs)

    def _trainer(self, kind: Kind) -> Learner | Trainer:
        settings, rows = self.settings, self.data.replay.rows
        sizes = rows.observation.shape[1], rows.action.shape[1]
        last = round(0.75 * settings.updates_each)
        if self.algorithm == "BC":
            return cloner(settings.td3, kind, *sizes, last)
        if self.algorithm == "IQL":
            return iql.learner(settings.td3, settings.iql, kind, *sizes, last)
        return Trainer(settings.td3, kind, *sizes, last, self.objective)

    def _losses(self, networks: tuple) -> tuple[Loss, ...]:
        if self.algorithm == "BC":
            return (distance,)
        if self.algorithm == "IQL":
            return iql.birth_losses(networks, self.settings.td3, self.settings.iql)
        return near_data_losses(networks, self.settings.td3, self.objective)

    def _drawn(self, random: np.random.Generator, *shape: int) -> Batch:
        batch = self.data.scale.standard(self.data.replay.sample(random, *shape))
        return batch._replace(reward=batch.reward * self.unit)

    def run(self, method: str, density: float) -> dict[str, Any]:
        """Return and densities of one agent; from its folder if it is done."""
        place = Path(self.settings.out) / self.algorithm
        folder = place / arm_name(method, density) / f"seed {self.seed}"
        facts = {"algorithm": self.algorithm, "method": method, "density": density}
        run = common.open_run(folder, self.settings, **facts, seed=self.seed)
        if run.complete:
            return run.final()
        common.header(folder, self.algorithm, 1, f"{self.settings.updates_each} updates")
        dense = tuple(one.dense for one in self.births)
        networks = dense if method == "dense" else pruned(self.births, method, density)
        if networks is None:
            run.finish(score=None, layers={})
        else:
            run.finish(**self.trained(run, method, networks))
        return run.final()

    def trained(self, run: common.Run, method: str, networks: tuple) -> dict[str, Any]:
        """Train and evaluate one agent."""
        settings, random = self.settings, np.random.default_rng(self.seed)
        trainer = self._trainer(Kind(moved=self.moved)) if method == "SET" else self.still
        counts = {path: kept / n for one in networks for path, (kept, n) in weights(one).items()}
        state: Any = trainer.start(self.seed, *networks)
        for step in range(0, settings.updates_each, STRETCH):
            batches = self._drawn(random, STRETCH // DELAY, DELAY, settings.td3.batch)
            key = jax.random.key(step + self.seed)
            state, losses, layers = trainer.train(state, batches, key)
            common.check_finite(float(np.sum(losses)), step, counts, run)
        layers = self.data.scale.raw(jax.device_get(layers))
        judge = gym.make(settings.env)
        score = gym.evaluate(judge, layers, settings.judged, seed=self.seed + 100)
        run.log(settings.updates_each, score=score, loss=float(np.mean(losses)))
        return {"score": score, "layers": counts}


def normalized(score: float, settings: Settings) -> float:
    """Between a random policy, 0, and D4RL's expert, 100."""
    low, high = D4RL.get(settings.env.partition("-")[0], (0.0, 100.0))
    return 100 * (score - low) / (high - low)


def all_arms(settings: Settings) -> list[tuple[str, float]]:
    """Methods and densities."""
    return [("dense", 1.0), *((m, d) for m in settings.methods for d in settings.densities)]


def arm_name(method: str, density: float) -> str:
    """Of its folder and in tables."""
    return method if method == "dense" else f"{method}, {100 * density:g} %"


Found = dict[str, dict[str, list[dict]]]
"""Runs over the seeds, by algorithm and arm."""


def show(found: Found, settings: Settings) -> None:
    """Print a table for each algorithm, and how random masks compare with the main result."""
    columns = [f"{100 * density:g} %" for density in settings.densities]
    for algorithm, arms in found.items():
        dense = cell(arms["dense"], settings)
        rows = [["dense", dense, *[""] * (len(columns) - 1)]]
        for method in settings.methods:
            cells = [cell(arms[f"{method}, {column}"], settings) for column in columns]
            rows.append([method, *cells])
        seeds = common.counted(settings.seeds, "seed")
        print(f"\n{settings.env}, {settings.quality} data, {algorithm}, {seeds}, D4RL score:\n")
        print(common.table(["pruned by", *columns], rows))
        if "random, 5 %" in arms:
            print(f"\n{on_random_masks(arms, settings)}")
        table = {
            arm_name(*arm): headline_of(arm[1], arms[arm_name(*arm)], settings)
            for arm in all_arms(settings)
        }
        print(f"\n{headline.by_sparsity(f'D4RL score of {algorithm}', table, digits=1)}")


def on_random_masks(arms: dict[str, list[dict]], settings: Settings) -> str:
    """How random masks at 5 % compare with the dense agent."""
    dense, near = (mean(arms[name]) for name in ("dense", "random, 5 %"))
    if dense is None or near is None or normalized(dense, settings) < LEARNED:
        return "the dense agent has learned too little to compare random masks with it"
    share = normalized(near, settings) / normalized(dense, settings)
    close = "close, so 5 % alone does not distinguish methods" if share > 0.8 else "not close"
    return f"random masks at 5 % reach {share:.0%} of the dense score: {close}"


def cell(runs: list[dict], settings: Settings) -> str:
    """Score over the seeds, or a note that a layer was lost."""
    scores = [run["score"] for run in runs]
    if None in scores:
        return "collapsed"
    return common.mean_std([normalized(score, settings) for score in scores], 1)


def headline_of(density: float, runs: list[dict], settings: Settings) -> headline.Arm:
    """Scores of the seeds; none where a layer was lost."""
    if None in (scores := [run["score"] for run in runs]):
        return headline.Arm(density, [])
    return headline.Arm(density, [normalized(score, settings) for score in scores])


def mean(runs: list[dict]) -> float | None:
    """Return over the seeds; none where a layer was lost."""
    scores = [run["score"] for run in runs]
    return None if None in scores else float(np.mean(scores))


def draw(found: Found, settings: Settings) -> Path:
    """Score against density; a panel for each algorithm."""
    panels: dict[str, dict] = {}
    for algorithm, arms in found.items():
        curves = {}
        for method in settings.methods:
            runs = {d: arms[f"{method}, {100 * d:g} %"] for d in settings.densities}
            points = {d: r for d, r in runs.items() if mean(r) is not None}
            values = [[normalized(run["score"], settings) for run in r] for r in points.values()]
            curves |= {method: ([100 * d for d in points], values)} if points else {}
        panels[algorithm] = curves
    level = normalized(float(np.mean([mean(arms["dense"]) for arms in found.values()])), settings)
    path = Path(settings.out) / "density.png"
    common.draw(panels, path, "weights kept [%]", "D4RL score", log="x", level=level)
    return path


def main(settings: Settings) -> None:
    """Make or read the data, train all agents, print the tables and draw the picture."""
    name = f"{settings.env}, {settings.quality}{', quick' * settings.quick}"
    settings = dataclasses.replace(settings, out=settings.out or f"runs/offline_prune/{name}")
    given = data(settings)
    found: Found = {}
    for algorithm in settings.algorithms:
        runs: dict[str, list[dict]] = {}
        for seed in range(1, settings.seeds + 1):
            study = Study(algorithm, seed, settings, given)
            for arm in all_arms(settings):
                runs.setdefault(arm_name(*arm), []).append(study.run(*arm))
        found[algorithm] = runs
    show(found, settings)
    path = draw(found, settings)
    common.show_pages(common.logged(path.parent), path.parent, path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
