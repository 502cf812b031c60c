"""Agents that learn Pong against themselves: how hard they are to exploit, and what they know.

Claim (the paper's): agents that learn against their past selves (Chainer, Pool) are harder to
    exploit than one that learns against a scripted opponent for as long, beat it, and linear probes
    read the state of the game better from them. Tested here on our own court, with new agents that
    learn against the frozen ones. Our question is what remains of this in sparse networks.

Paper: He, Rammohan, Forde and Littman, Does DQN really learn? Exploring adversarial training
    schemes in Pong, RLDM 2022, arXiv 2203.10614. Only the abstract was read, which has no numbers;
    the court, the networks, the schemes' details and the sparse agents are ours.

Number (3 seeds): exploiters end with 0.42 against the agent trained on the script, 0.22 against
    Chainer and -0.01 against Pool, which beats both others head to head. Pool at 80 % sparsity:
    -0.01 static, 0.01 SET; at 95 % 0.88 and 0.71. Probes of trained agents read the ball's speed
    across and where it lands better than those of untrained ones, but not its speed up, and no
    better from Pool than from the agent trained on the script.

Command: python -m experiments.selfplay_pong            (three seeds)
         python -m experiments.selfplay_pong --quick    (one seed, three generations)
         python -m experiments.selfplay_pong --atari    (the base agent on Atari 2600 Pong)
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jsparse
from experiments import common
from experiments.rl import atari, headline, schooling, sights
from experiments.rl.dqn import Dqn
from experiments.rl.networks import Kind, Layers, drawn
from experiments.rl.schooling import CHAINER, LONG, POOL

ARMS = (LONG, CHAINER, POOL)
MATCH = 10
"""Times `points`: of a match between agents."""
SPARSE = {
    "Pool, static 80 %": Kind(drawn(0.2)),
    "Pool, SET 80 %": Kind(drawn(0.2), jsparse.SET),
    "Pool, static 95 %": Kind(drawn(0.05)),
    "Pool, SET 95 %": Kind(drawn(0.05), jsparse.SET),
}
"""Sparse agents; static masks are random, with Erdos-Renyi densities."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """Agents are trained one kind after another, all seeds of a kind side by side."""

    seeds: int = 3
    generations: int = 6
    """Of each agent, the first of them against the script."""
    iterations: int = 6000
    """Of a generation, of 64 steps and one update each; and of an exploiter."""
    exploiters: int = 3
    """Of each agent."""
    marks: int = 6
    """Times at which an exploiter is measured."""
    points: int = 200
    """Of a measurement."""
    looks: int = 3000
    """Iterations per generation of the agents that see frames, of which there are at most three."""
    sparse: bool = True
    """Whether sparse agents are trained, too."""
    quick: bool = False
    """One seed, three generations, one exploiter, one sparse agent."""
    atari: bool = False
    """Only the base agent, on real Pong."""
    simulators: int = 16
    """Games at once, with --atari."""
    frames: int = 100_000
    """That the agent acts on, with --atari, of all games together."""
    dqn: Dqn = Dqn()

    def __post_init__(self) -> None:
        names = ("seeds", "generations", "iterations", "exploiters", "marks", "points", "looks",
                 "simulators", "frames")  # fmt: skip
        self.check_positive(*names)
        if self.frames < atari.MARKS * self.simulators:
            raise ValueError(
                f"--frames got {self.frames}; give at least {atari.MARKS} for each of the "
                f"{self.simulators} simulators"
            )
        if self.generations < 3:
            raise ValueError(
                f"--generations got {self.generations}; give 3 or more, as Chainer and Pool are "
                "the same agent until then"
            )
        if self.iterations % self.marks:
            raise ValueError(
                f"--iterations got {self.iterations}; give a multiple of --marks, {self.marks}"
            )


QUICK = Settings(
    seeds=1, generations=3, iterations=2000, exploiters=1, marks=5, points=100, looks=400,
    frames=4000, quick=True,
)  # fmt: skip


def sparse_arms(settings: Settings) -> list[str]:
    """Those that are trained."""
    return list(SPARSE)[: 1 if settings.quick else len(SPARSE)] if settings.sparse else []


def jobs(settings: Settings) -> list[tuple[str, str]]:
    """The jobs, in order."""
    agents = [*ARMS, *sparse_arms(settings)]
    found = [("train", "dense"), *(("train", arm) for arm in sparse_arms(settings))]
    found += [("match", "all"), *(("exploit", arm) for arm in agents)]
    return [*found, ("probe", "frames")]


def trained(name: str, settings: Settings) -> dict[str, Layers]:
    """Agents that see numbers, by arm."""
    sizes = settings.generations, settings.iterations, settings.seeds
    if name == "dense":
        return schooling.schooled("numbers", settings.dqn, Kind(), ARMS, *sizes)
    pool = schooling.schooled("numbers", settings.dqn, SPARSE[name], (POOL,), *sizes)
    return {name: pool[POOL]}


def measured(what: str, name: str, agents: dict[str, Layers], settings: Settings) -> dict[str, Any]:
    """Numbers of a job that trains no agent of the comparison."""
    if what == "match":
        return {"scores": schooling.matrix(agents, MATCH * settings.points)}
    if what == "exploit":
        sizes = settings.exploiters, settings.iterations, settings.marks, settings.points
        marks, curve = schooling.exploited(settings.dqn, agents[name], *sizes)
        return {"iterations": marks, "curve": curve}
    dqn = dataclasses.replace(settings.dqn, batch=64, warm=500)
    sizes = min(3, settings.generations), settings.looks, settings.seeds
    return {"probes": sights.probes(dqn, ARMS, *sizes)}


def show(rows: list[dict[str, Any]], agents: dict[str, Layers], settings: Settings) -> None:
    """Tables, the outcome of the claims, and a picture."""
    seeds, out = common.counted(settings.seeds, "seed"), Path(settings.out)
    by = {(row["what"], row["name"]): row for row in rows}
    names = [*ARMS, *sparse_arms(settings)]
    scores = np.array(by["match", "all"]["scores"])  # [seeds, agents, 1 + agents]
    lines = [
        [name, *(common.mean_std(scores[:, n, k].tolist()) for k in range(1 + len(names)))]
        for n, name in enumerate(names)
    ]
    print(f"\nPoints of the left player (row) against the right one, {seeds}:\n")
    print(common.table(["", "script", *names], lines))
    curves = {name: np.array(by["exploit", name]["curve"]) for name in names}
    marks, lines = by["exploit", POOL]["iterations"], []
    for name, curve in curves.items():
        ends = curve[-1].mean(axis=1)  # of a seed's exploiters
        frames = [settings.dqn.copies * one for one in first_above(curve, marks)]
        never = sum(map(np.isinf, frames))
        lines.append([name, common.mean_std(ends), ", ".join(f"{one:+.2f}" for one in ends),
                      f"{np.median(frames) / 1000:g}", f"{never} of {len(frames)}"])  # fmt: skip
    print(f"\nScores of {settings.exploiters} exploiters of each agent at their end, {seeds}:\n")
    head = ["agent", "score", "by seed", "thousands of frames to beat it, median", "never"]
    print(common.table(head, lines))
    probes = by["probe", "frames"]["probes"]
    print(f"\nR^2 of linear probes of the second hidden layer, on held-out frames, {seeds}:\n")
    print(common.table(["", *probes], probed(probes)))
    for line in claims(scores, curves, probes):
        print(f"\n{line}")
    ends = {name: curves[name][-1].mean(axis=1).tolist() for name in names if POOL in name}
    kept = {name: headline.Arm(kept_of(agents[name]), one) for name, one in ends.items()}
    print(f"\n{headline.by_sparsity('score of exploiters of Pool', kept)}")
    frames = [settings.dqn.copies * mark / 1000 for mark in marks]
    each = {name: (frames, curve.reshape(len(marks), -1)) for name, curve in curves.items()}
    panels = {"schemes": {name: each[name] for name in ARMS},
              "Pool by sparsity": {name: each[name] for name in ends}}  # fmt: skip
    path = out / "exploiters.png"
    common.draw(panels, path, "thousands of frames of an exploiter", "its score")
    print(f"\npicture: {path}\npage: {common.show_page(out, '')}")


def kept_of(layers: Layers) -> list[float]:
    """By seed, the fraction of an agent's weights that are not 0; no biases."""
    parts = [np.asarray(kernel).reshape(len(kernel), -1) != 0 for kernel, _ in layers]
    return np.concatenate(parts, axis=1).mean(axis=1).tolist()


def first_above(curve: np.ndarray, marks: list[int]) -> list[float]:
    """Iterations after which each exploiter first had a score above 0; infinite if it never had."""
    above = curve.reshape(len(marks), -1) > 0
    return np.where(
        above.any(axis=0), np.array(marks, float)[above.argmax(axis=0)], np.inf
    ).tolist()


def probed(probes: dict[str, Any]) -> list[list[str]]:
    """R^2 of each target, by agent."""
    last = {name: layers["second layer"] for name, layers in probes.items()}
    targets = last[sights.UNTRAINED][0]
    values = lambda rows, target: common.mean_std([row[target] for row in rows])
    return [[target, *(values(rows, target) for rows in last.values())] for target in targets]


def claims(scores: np.ndarray, curves: dict[str, np.ndarray], probes: dict[str, Any]) -> list[str]:
    """Each claim, whether it was met, and the numbers of each seed."""
    pool = ARMS.index(POOL)
    text = lambda values: ", ".join(f"{one:+.2f}" for one in values)
    wins = np.array([scores[:, pool, 1 + ARMS.index(arm)] for arm in (LONG, CHAINER)])
    against = f"against {LONG} {text(wins[0])}; {CHAINER} {text(wins[1])}"
    found = [headline.verdict("Pool beats both others", (wins > 0).all(axis=0), against)]
    ends = {arm: curves[arm][-1].mean(axis=1) for arm in ARMS}
    lowest = ends[POOL] < np.minimum(ends[LONG], ends[CHAINER])
    scored = "; ".join(f"{arm} {text(one)}" for arm, one in ends.items())
    found.append(
        headline.verdict("exploiters score least against Pool", lowest, scored, least=2 / 3)
    )
    better = scores[:, ARMS.index(CHAINER), 1 + ARMS.index(LONG)]
    gaps = ends[CHAINER] - ends[LONG]
    found.append(f"Chainer against {LONG}, reported only: head to head {text(better)}; "
                 f"exploiters' scores {text(gaps)}")  # fmt: skip
    last = {name: layers["second layer"] for name, layers in probes.items()}
    for target in sights.CLAIMED:
        read = {name: np.array([row[target] for row in rows]) for name, rows in last.items()}
        gaps = {arm: read[arm] - read[sights.UNTRAINED] for arm in ARMS}
        met = np.min([*gaps.values()], axis=0) > 0
        numbers = "R^2 more than untrained: "
        numbers += "; ".join(f"{arm} {text(one)}" for arm, one in gaps.items())
        found.append(
            headline.verdict(f"probes read {target} better from trained agents", met, numbers)
        )
        found.append(f"{target}, from Pool against {LONG}, reported only: "
                     f"{text(read[POOL] - read[LONG])}")  # fmt: skip
    return found


def main(settings: Settings) -> None:
    """Train and measure what is not done yet; print the tables and draw the pictures."""
    folder = f"runs/selfplay_pong{'/quick' * settings.quick}{'/atari' * settings.atari}"
    settings, out = settings.in_folder(folder)
    run = common.open_run(out, settings)
    if settings.atari:
        return atari.main(run, settings.dqn, settings.simulators, settings.frames)
    seeds, width = settings.seeds, settings.dqn.width
    blank = jax.tree.map(lambda leaf: leaf[:, 0], schooling.blank("numbers", seeds, 1, width))
    agents = {name: blank for name in (*ARMS, *sparse_arms(settings))}
    done, agents = run.load(agents)
    common.header(out, "agents of Pong", seeds, f"{len(jobs(settings)) - done} jobs left")
    progress = common.Epochs(done, len(jobs(settings)), "pong", "job")
    for number in progress:
        what, name = jobs(settings)[number - 1]
        found: dict[str, Any] = {}
        if what == "train":
            agents = agents | trained(name, settings)
        else:
            found = measured(what, name, agents, settings)
        run.log(number, what=what, name=name, **found)
        run.save(number, agents)
        progress.show()
    rows = run.rows()
    if not run.complete:
        run.finish(rows=rows)
    show(rows, agents, settings)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
