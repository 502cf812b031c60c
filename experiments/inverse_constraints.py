"""What an expert does not do, learned as a constraint: inverse constrained reinforcement learning.

Claim (the paper's): from episodes of an expert that obeys a constraint, and a world without
    punishment, a network learns what is forbidden, and a policy that obeys it does as well in the
    true world as the expert, as does adversarial imitation; a classifier of expert against nominal
    steps does less well. Tested here on a ring with coins where one may not walk backward, whose
    optima are known exactly: 60 with the constraint, 294 without. Ours: sparse policies, and the
    constraint read through a sparse head.

Paper: Malik, Anwar, Aghasi and Ahmed, Inverse constrained reinforcement learning, ICML 2021, arXiv
    2011.09999. Published, read off its figure: expert 60, ICRL about 58, the baselines about 46
    and 2, nominal -1. Ours: a multiplier updated by the mean cost, at least 1; zeta is updated
    after each iteration of PPO, from 10 episodes of the policy, which count as steps, and the same
    single episode of the expert.

Arms: ICRL; without its regularizer (delta 0); a classifier, trained once against the nominal policy
    and then fixed; adversarial, rewarded with log zeta; ICRL with policies at 80 and 95 %. Finally
    the constraint of ICRL is given to new agents, with other coins and with steps of two cells.

Number (5 seeds): after 444,000 steps ICRL has 60.0 in all of them, with no step backward, and so at
    80 and 95 % after 600,000; new agents under its zeta get 0.91 to 1.00 of their optimum.
    Adversarial 60.0 in all, too, classifier 16.4 ± 23.1. Delta 0 does not collapse: 42 to 60. Some
    policies stay on a coin before zeta forbids it: one of ten as here, one of five where they move
    without a limit (`far`) at a rate of 1e-3, one of three with five iterations of PPO for each
    zeta.

Command: python -m experiments.inverse_constraints            (five seeds)
         python -m experiments.inverse_constraints --quick    (one seed, ICRL and the classifier)
         python -m experiments.cheetah_wall                   (ICRL of HalfCheetah, on MuJoCo)
"""

import dataclasses
import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jsparse
from experiments import common
from experiments.rl import headline, inverse
from experiments.rl.environments import ring
from experiments.rl.networks import Apart, Kind, drawn, weights
from experiments.rl.policies import Choice
from experiments.rl.ppo import Ppo, Trainer
from experiments.rl.rollout import Learner

ARMS = {
    "ICRL": (Kind(), 0.5),
    "ICRL, delta 0": (Kind(), 0.0),
    "classifier": (Kind(), 0.0),
    "adversarial": (Kind(), 0.0),
    "ICRL, 80 %": (Kind(drawn(0.2)), 0.5),
    "ICRL, 95 %": (Kind(drawn(0.05)), 0.5),
}
"""How the policy is sparse, and delta."""
OTHER = (3, 9, 20, 28, 31)
MOVERS = {"other coins": (ring.paid(OTHER), 1), "two cells a step": (ring.paid((6, 16, 26, 36)), 2)}
"""Agents that are given a constraint: coins, and cells per step."""
WALKS, LATER, NOMINAL = 10, 20, 10
"""Episodes of the policy for an update of zeta; iterations of PPO of an agent that is given zeta,
and of the nominal one that a classifier is trained against."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ArmSettings):
    """Arms, and of their agents."""

    arms: tuple[str, ...] = dataclasses.field(default=tuple(ARMS), metadata=common.FREE)
    rounds: int = 50
    """Of an iteration of PPO, of 10,000 steps, and an update of zeta from 2,000 steps more."""
    passes: int = 10
    """Steps of Adam of that update; a classifier has 50 times as many."""
    rate: float = 0.01
    """Its learning rate."""
    ppo: Ppo = dataclasses.field(
        default_factory=lambda: Ppo(
            copies=50, steps=200, passes=10, batches=50, learning_rate=5e-4, entropy=0.0, far=0.015
        )
    )
    """Of the policy."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "rounds", "passes")
        self.check_arms(ARMS)


QUICK = Settings(arms=("ICRL", "classifier"), seeds=1, rounds=28, quick=True)


@functools.cache
def trainer(ppo: Ppo, bounded: bool) -> Trainer:
    """Of policies, with a multiplier of the cost 1 - zeta where they are bounded; compiled once."""
    bounds = (inverse.price(0.5),) if bounded else ()
    network = lambda rngs: Apart(ring.OBSERVED, ring.ACTIONS, 1 + len(bounds), 64, rngs)
    return Trainer(ppo, Choice(ring.ACTIONS), network, Kind(), 0, bounds)


def world(
    allowed: ring.Allowed, seeds: int, coins: np.ndarray, stride: int, blamed: float
) -> ring.Ring:
    """The nominal rings of all seeds."""
    spread = lambda one: jnp.broadcast_to(jnp.asarray(one), (seeds, *np.shape(one)))
    return ring.Ring(spread(coins), spread(stride), allowed, spread(np.float32(blamed)))


def walks(own: Trainer, learner: Learner, stride: int, key: Array) -> tuple[Array, Array]:
    """Cells and actions of the policies, [seeds, episodes, steps] each."""
    seeds = len(learner.key)
    cells = jnp.broadcast_to(ring.observed(jnp.arange(ring.CELLS)), (seeds, ring.CELLS, 1))
    back = np.asarray(jax.nn.softmax(own.read(learner, cells)[0]))[..., 1]
    draws = np.asarray(jax.random.uniform(key, (ring.STEPS, seeds, WALKS)))
    seed, cell, rows = np.arange(seeds)[:, None], np.zeros((seeds, WALKS), int), []
    for draw in draws:
        action = (draw < back[seed, cell]).astype(int)
        rows.append((cell, action))
        cell = (cell + stride * (1 - 2 * action)) % ring.CELLS
    seen, done = (jnp.array(one).transpose(1, 2, 0) for one in zip(*rows, strict=True))
    return seen, done


def measured(seen: tuple[Array, Array], coins: np.ndarray, stride: int) -> dict[str, np.ndarray]:
    """Of each seed: return in the true world, and backward steps per step in the nominal one."""
    action = np.asarray(seen[1])
    back = action.mean(axis=(1, 2))
    return {"reward": ring.truly(action, coins, stride).mean(axis=1), "violations": back}


def expert() -> inverse.Walks:
    """One episode: always forward."""
    cells = jnp.arange(ring.STEPS)[None] % ring.CELLS
    return ring.judged(cells, jnp.zeros_like(cells))


def trained(run: common.Run, arm: str, settings: Settings) -> dict[str, Any]:
    """How an arm went, by round, and its zeta [seeds, cells, actions] at the end of it.

    A killed run resumes from its last round.
    """
    once, blamed = arm == "classifier", float(arm == "adversarial")
    own, coins = trainer(settings.ppo, not blamed), ring.paid()
    seeds = settings.seeds
    common.header(run.folder, "learners", seeds, f"{settings.rounds} rounds")
    allowed = jax.vmap(ring.begin)(jax.vmap(jax.random.key)(jnp.arange(1, seeds + 1)))
    nobody = allowed._replace(b2=jnp.full_like(allowed.b2, 20.0))
    icrl = partial(inverse.loss, delta=ARMS[arm][1])
    objective = inverse.unlike if once or blamed else icrl
    passes = settings.passes * (50 if once else 1)
    update = jax.jit(jax.vmap(
        partial(inverse.improved, objective, expert=expert(), rate=settings.rate, passes=passes)
    ))  # fmt: skip
    place = world(allowed, seeds, coins, 1, blamed)
    learner = own.begin(range(1, seeds + 1), place, ARMS[arm][0])
    done, (learner, allowed) = run.load((learner, allowed))
    for number in range(done + 1, settings.rounds + 1):
        known = nobody if once and number <= NOMINAL else allowed  # nominal first
        place = world(known, seeds, coins, 1, blamed)
        learner, report = own.learn(learner, place, iterations=1)
        seen = walks(own, learner, 1, jax.random.key(number))
        if number == NOMINAL or not once:
            allowed = update(allowed, walks=ring.judged(*seen))
        row = {"score": report.score[:, -1], "prices": report.prices[:, -1]}
        run.log(number, **measured(seen, coins, 1), **row)
        if number % 5 == 0:
            run.save(number, (learner, allowed))
    rows = run.rows()
    counts = [np.sum(list(weights(own.agent(learner, n).network).values()), axis=0)
              for n in range(seeds)]  # fmt: skip
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "step"}
    per = settings.ppo.copies * settings.ppo.steps + WALKS * ring.STEPS
    found = {"steps": [per * row["step"] for row in rows], **columns}
    found |= {"zeta": mapped(allowed), "kept": [one / every for one, every in counts]}
    return found | {"moved": moved(own, allowed, settings) if arm == "ICRL" else {}}


def mapped(allowed: ring.Allowed) -> np.ndarray:
    """Zeta [seeds, cells, actions]."""
    cell, action = jnp.indices((ring.CELLS, ring.ACTIONS))
    return np.asarray(
        jax.nn.sigmoid(jax.vmap(lambda one: one.logit(ring.judged(cell, action)))(allowed))
    )


def read(zeta: np.ndarray) -> tuple[list[str], float]:
    """What a sparse head needs to predict zeta [cells, actions]: words, and its R^2.

    Its features are whether a step is backward, in which cell it is, and both together.
    """
    cells = np.eye(ring.CELLS)
    one = [np.concatenate([np.full((ring.CELLS, 1), back), cells, back * cells], axis=1)
           for back in range(ring.ACTIONS)]  # fmt: skip
    names = ["backward", *(f"{word} {n}" for word in ("cell", "backward in cell")
                           for n in range(ring.CELLS))]  # fmt: skip
    given = np.concatenate(one).astype(np.float32), zeta.T.ravel().astype(np.float32)
    path = jsparse.heads.elastic_net_path(
        *given, points=15, smallest=0.01, validation=0, key=jax.random.key(0)
    )
    point = path.choose(0.02)
    kept = np.flatnonzero(point.weight[:, 0])
    return [f"{names[n]} {point.raw_weight[n, 0]:+.2f}" for n in kept], point.accuracy


def moved(own: Trainer, allowed: ring.Allowed, settings: Settings) -> dict[str, dict[str, Any]]:
    """New agents under a constraint that another one learned, and the optimum under it."""
    found = {}
    for name, (coins, stride) in MOVERS.items():
        place = world(allowed, settings.seeds, coins, stride, 0.0)
        learner = own.begin(range(1, settings.seeds + 1), place)
        for _ in range(LATER):
            learner, _ = own.learn(learner, place, iterations=1)
        best = ring.best(coins, stride, backward=False)[0]
        seen = walks(own, learner, stride, jax.random.key(0))
        found[name] = {"best": best, **measured(seen, coins, stride)}
    return found


def acceptance(rows: dict[str, dict[str, Any]], settings: Settings) -> list[str]:
    """The expectations and outcomes: met where four of five seeds agree."""
    lines = []
    if "ICRL" in rows:
        row = rows["ICRL"]
        soon = np.array(row["steps"]) <= 450_000
        reward, bad = (np.array(row[key])[soon] for key in ("reward", "violations"))
        good = ((reward >= 57) & (bad <= 0.01))[-1]
        lines.append(said(good, "ICRL at least 57 with at most 0.01 violations a step by "
                          f"{np.array(row['steps'])[soon][-1]:,} steps", reward[-1]))  # fmt: skip
        for name, one in row["moved"].items():
            share = np.array(one["reward"]) / one["best"]
            lines.append(said(share >= 0.8, f"{name}: at least 0.8 of the optimum", share))
    if "ICRL, delta 0" in rows:
        reward = np.array(rows["ICRL, delta 0"]["reward"])
        fell = (reward.max(axis=0) >= 57) & (reward[-1] < 57)
        lines.append(said(fell, "delta 0: gets to 57, and falls from it later", reward[-1]))
    return lines


def said(holds: np.ndarray, claim: str, values: np.ndarray) -> str:
    """A verdict, with the numbers of all seeds."""
    text = ", ".join(f"{value:.2f}" for value in values)
    return headline.verdict(claim, holds, text, least=0.8)


def told(rows: dict[str, dict[str, Any]], settings: Settings) -> str:
    """Tables and verdicts."""
    coins, lines = ring.paid(), []
    ends = ring.best(coins, backward=False)[0], ring.best(coins)[0]
    parts = [f"\nBest on the ring: {ends[0]:g} (the expert), {ends[1]:g} without the constraint."]
    for arm, row in rows.items():
        reward, bad = np.array(row["reward"]), np.array(row["violations"])
        zeta = np.array(row["zeta"]).mean(axis=(0, 1))
        lines.append([arm, common.mean_std(reward[-1]), f"{reward.max(axis=0).mean():.2f}",
                      common.mean_std(bad[-1], 3), *(f"{one:.2f}" for one in zeta)])  # fmt: skip
    steps = rows[next(iter(rows))]["steps"][-1]
    parts.append(f"\nAfter {steps:,} steps, {common.counted(settings.seeds, 'seed')}:\n")
    head = ["", "true return", "its best", "violations a step", "zeta forward", "backward"]
    parts += [common.table(head, lines), "", *acceptance(rows, settings)]
    if "ICRL" in rows:
        words, fit = read(np.array(rows["ICRL"]["zeta"])[0])
        more = f" and {len(words) - 5} more" if len(words) > 5 else ""
        parts.append(f"\nA sparse head on zeta of the first seed (R^2 {fit:.2f}) needs "
                     f"{len(words)} of 81 features: {', '.join(words[:5])}{more}")  # fmt: skip
    sparse = {arm: headline.Arm(row["kept"], np.array(row["reward"])[-1].tolist())
              for arm, row in rows.items() if "%" in arm or arm == "ICRL"}  # fmt: skip
    if sparse:
        parts.append(f"\n{headline.by_sparsity('true return', sparse)}")
    return "\n".join(parts)


def draw(zetas: dict[str, np.ndarray], settings: Settings, path: Path) -> None:
    """How allowed each action is in each cell: before, and as learned, [cells, actions] each."""
    from matplotlib.figure import Figure

    keys = jax.vmap(jax.random.key)(jnp.arange(1, settings.seeds + 1))
    panels = {"before": mapped(jax.vmap(ring.begin)(keys))[0], **zetas}
    figure = Figure(figsize=(8, 1.1 * len(panels) + 0.5), layout="constrained")
    for axes, (name, zeta) in zip(figure.subplots(len(panels)), panels.items(), strict=True):
        axes.imshow(zeta.T, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        axes.set(title=name, yticks=[0, 1], yticklabels=["forward", "backward"])
        axes.title.set_fontsize(9)
        axes.set_xticks(ring.COINS, [f"coin\n{cell}" for cell in ring.COINS], fontsize=7)
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="zeta of the first seed")
    common.save(figure, path)


def folder(arm: str) -> str:
    """Of its run."""
    return arm.replace(" %", "")


def main(settings: Settings) -> None:
    """Train what is not trained yet; print the tables, draw the pictures and write the pages."""
    settings, out = settings.in_folder(f"runs/inverse_constraints{'/quick' * settings.quick}")
    rows, zetas = {}, {}
    progress = common.Epochs(0, len(settings.arms), "constraints", "arm")
    for number in progress:
        arm = settings.arms[number - 1]
        run = common.open_run(out / folder(arm), settings, trained=arm)
        if not run.complete:
            run.finish(**trained(run, arm, settings))
        rows[arm] = run.final()
        zetas[arm] = np.array(rows[arm]["zeta"])[0]
        draw({f"after: {arm}": zetas[arm]}, settings, run.folder / "constraint.png")
        progress.show(reward=np.mean(rows[arm]["reward"][-1]))
    text = told(rows, settings)
    print(text)
    curves = {arm: (row["steps"], np.array(row["reward"])) for arm, row in rows.items()}
    common.draw({"the ring": curves}, out / "returns.png", "steps", "return in the true world")
    draw(zetas, settings, out / "constraint.png")
    pictures = out / "constraint.png", out / "returns.png"
    common.show_pages(map(folder, rows), out, *pictures, tables=text)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
