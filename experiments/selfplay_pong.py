"""Agents that learn Pong against themselves: how hard they are to exploit, and what they know.

Claim (the paper's): agents that learn against their past selves (Chainer, Pool) are harder to
    exploit than one that learns against a scripted opponent for as long, beat it, and linear probes
    read the state of the game better from them. Tested here on a court of our own, by new agents
    that learn against the frozen ones. Ours is the question what is left of it in sparse networks.

Paper: He, Rammohan, Forde and Littman, Does DQN really learn? Exploring adversarial training
    schemes in Pong, RLDM 2022, arXiv 2203.10614. Only the abstract was read, which has no numbers;
    the court, the networks, the schemes' details and the sparse agents are ours.

Number: NUMBER

Command: python -m experiments.selfplay_pong            (three seeds)
         python -m experiments.selfplay_pong --quick    (one seed, two generations)
         python -m experiments.selfplay_pong --atari    (the base agent on Pong of the Atari 2600)
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsparse
from experiments import common
from experiments.rl import atari, schooling, selfplay
from experiments.rl.dqn import Dqn
from experiments.rl.environments import pong
from experiments.rl.networks import MLP, Kind, Layers, drawn
from experiments.rl.probe import probe
from experiments.rl.schooling import CHAINER, LONG, POOL

ARMS = (LONG, CHAINER, POOL)
SPARSE = {
    "Pool, static 80 %": Kind(drawn(0.2)),
    "Pool, SET 80 %": Kind(drawn(0.2), jsparse.SET),
    "Pool, static 95 %": Kind(drawn(0.05)),
    "Pool, SET 95 %": Kind(drawn(0.05), jsparse.SET),
}
"""Sparse agents; static masks are random, with Erdos-Renyi densities."""
UNTRAINED = "untrained"
CLAIMED = ("ball, speed across", "ball, speed up", "landing point")
"""Which of what is probed must be read better from trained agents."""
COURTS, STEPS, STRAY = 64, 250, 0.3
"""Of the frames for probes: courts, of which a quarter is held out, steps, and random moves."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """Agents are trained one kind after the other, all seeds of one side by side."""

    seeds: int = 3
    generations: int = 6
    """Of each agent, the first of them against the script."""
    iterations: int = 12_000
    """Of a generation, of 64 steps and one update each; and of an exploiter."""
    exploiters: int = 3
    """Of each agent."""
    marks: int = 8
    """Times at which an exploiter is measured."""
    points: int = 200
    """Of a measurement."""
    looks: int = 3000
    """Iterations of a generation of the agents that see frames; of them there are three at most."""
    sparse: bool = True
    """Whether sparse agents are trained, too."""
    quick: bool = False
    """One seed, two generations, one exploiter, one sparse agent."""
    atari: bool = False
    """Only the base agent, on real Pong."""
    dqn: Dqn = Dqn()

    def __post_init__(self) -> None:
        names = ("seeds", "generations", "iterations", "exploiters", "marks", "points", "looks")
        self.check_positive(*names)
        if self.generations < 2 or self.iterations % self.marks:
            raise ValueError(
                f"--generations got {self.generations}, of which 2 are needed; --iterations got "
                f"{self.iterations}, which is to be a multiple of --marks, {self.marks}"
            )


QUICK = Settings(
    seeds=1, generations=2, iterations=3000, exploiters=1, marks=5, points=100, looks=500, quick=True
)


def sparse_arms(settings: Settings) -> list[str]:
    """Those that are trained."""
    return list(SPARSE)[: 1 if settings.quick else len(SPARSE)] if settings.sparse else []


def jobs(settings: Settings) -> list[tuple[str, str]]:
    """What is done, in turn."""
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
        return {"scores": schooling.matrix(agents, settings.points)}
    if what == "exploit":
        sizes = settings.exploiters, settings.iterations, settings.marks, settings.points
        marks, curve = schooling.exploited(settings.dqn, agents[name], *sizes)
        return {"iterations": marks, "curve": curve}
    return {"probes": probes(settings)}


@partial(jax.jit, static_argnums=1)
def rallies(key: jax.Array, courts: int) -> tuple[jax.Array, pong.Court]:
    """What is watched [STEPS, courts, 8] while both sides follow the ball and often stray."""
    first, *keys = jax.random.split(key, STEPS + 1)

    def step(court: pong.Court, key: jax.Array) -> tuple[pong.Court, tuple]:
        serve, stray, other = jax.random.split(key, 3)
        follow = jnp.stack([pong.follow(court), pong.follow(pong.mirrored(court))])
        random = pong.move(jax.random.randint(other, (2,), 0, pong.ACTIONS))
        moves = jnp.where(jax.random.uniform(stray, (2,)) < STRAY, random, follow)
        new, _, end = pong.step(court, moves, key)
        new = jax.tree.map(partial(jnp.where, end), pong.reset(serve), new)
        return new, (pong.watch(court), court)

    begin = jax.vmap(pong.reset)(jax.random.split(first, courts))
    each = jax.vmap(lambda key: jax.random.split(key, courts))(jnp.stack(keys))
    return jax.lax.scan(jax.vmap(step), begin, each)[1]


def told(court: pong.Court) -> dict[str, np.ndarray]:
    """What is probed, [...] each, of courts [...]."""
    across, up = np.moveaxis(np.asarray(court.velocity), -1, 0)
    x, y = np.moveaxis(np.asarray(court.ball), -1, 0)
    own, other = np.moveaxis(np.asarray(court.paddles), -1, 0)
    land = np.asarray(jax.vmap(jax.vmap(pong.landing))(court))
    names = ("ball, across", "ball, up", *CLAIMED[:2], "own paddle", "other paddle", CLAIMED[2])
    return dict(zip(names, (x, y, across, up, own, other, land), strict=True))


def probes(settings: Settings) -> dict[str, dict[str, list[dict[str, float]]]]:
    """R^2 by agent, hidden layer and seed, of agents that see two frames."""
    watched, courts = rallies(jax.random.key(0), COURTS)
    held = np.broadcast_to(np.arange(COURTS) % 4 == 0, (STEPS, COURTS)).reshape(-1)
    targets = {name: one.reshape(-1) for name, one in told(courts).items()}
    x = jax.vmap(partial(selfplay.see, "frames"))(watched.reshape(-1, 8))
    seeds, dqn = range(1, settings.seeds + 1), dataclasses.replace(settings.dqn, batch=64, warm=500)
    sizes = min(3, settings.generations), settings.looks, settings.seeds
    agents = schooling.schooled("frames", dqn, Kind(), ARMS, *sizes)
    fresh = [MLP(x.shape[1], pong.ACTIONS, dqn.width, nnx.Rngs(seed)).layers() for seed in seeds]
    agents |= {UNTRAINED: jax.tree.map(lambda *leaves: jnp.stack(leaves), *fresh)}
    found: dict[str, Any] = {}
    for name, layers in agents.items():
        found[name] = {"first layer": [], "second layer": []}
        for n in range(settings.seeds):
            h = x
            for layer, (kernel, bias) in zip(found[name], layers[:-1], strict=True):
                h = nnx.relu(h @ kernel[n] + bias[n][None])
                found[name][layer].append(probe(np.asarray(h), targets, held, 1e-4))
    return found


def main(settings: Settings) -> None:
    """Train and measure what is not done yet; print the tables and draw the pictures."""
    folder = f"runs/selfplay_pong{'/quick' * settings.quick}{'/atari' * settings.atari}"
    settings = dataclasses.replace(settings, out=str(settings.out or folder))
    run = common.open_run(settings.out, settings)
    if settings.atari:
        return atari.main(run, settings.dqn)
    seeds, width = settings.seeds, settings.dqn.width
    blank = jax.tree.map(lambda leaf: leaf[:, 0], schooling.blank("numbers", seeds, 1, width))
    agents = {name: blank for name in (*ARMS, *sparse_arms(settings))}
    done, agents = run.load(agents)
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
    show(rows, settings)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
