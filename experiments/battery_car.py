"""Ceilings on state densities, learned from samples: a multiplier each, or one for a value cost.

Claim (the paper's): a ceiling on the density of states is best imposed directly, with a multiplier
    for each state; a state cost bounded in expectation has to be tuned until the ceiling happens to
    hold. Tested here on a car that charges quickly while its battery is low, so that it wants to be
    where it is rarely allowed: three ceilings on the densities of the six lowest levels, PPO with a
    multiplier for each level, against PPO with one multiplier for weight * E[lowness] <= 1 at five
    weights. Both see only their samples, not the tables.

Paper: Qin, Chen and Fan, Density constrained reinforcement learning, ICML 2021, arXiv 2106.12764,
    sections 3 to 5; the value cost is that of Tessler et al., Reward constrained policy
    optimization, ICLR 2019. The car, its ceilings and all settings are ours, and small enough for a
    linear program to know the optimum, so no number of the paper is printed for comparison.

What is judged: the average, over the second half of the iterations, of the occupancies of the
    policies, by the exact densities that these have. A ceiling is met up to 5 %; a weight works for
    a ceiling if it meets it with 0.9 of the best reward within it.

Number (3 seeds): with a multiplier for each level the three ceilings are met within 4 %, with 0.95,
    0.91 and 0.96 of the best reward. No weight works: the five are 60 to 541 %, 12 to 346 %, -31 to
    175 %, -56 to 76 % and -73 to 8 % beyond the three ceilings; the linear program shows the same
    for exact learners. At the middle ceiling 80 % sparse networks get 0.81 of the best reward at
    6 % beyond it, 95 % sparse ones 0.36 at 25 %.

Command: python -m experiments.battery_car            (three seeds)
         python -m experiments.battery_car --quick    (one seed, fewer iterations)
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jsparse
from experiments import common
from experiments.rl import headline
from experiments.rl.environments import battery, chain
from experiments.rl.networks import Apart, Kind, drawn, weights
from experiments.rl.policies import Choice
from experiments.rl.ppo import Ppo, Trainer

LOW = battery.FULL // 2
"""Levels of energy that are bounded."""
TOPS = (0.08, 0.04, 0.02)
"""Of the ceilings."""
WEIGHTS = (20, 50, 100, 200, 400)
"""Of the value cost."""
OVER, ENOUGH = 1.05, 0.9
"""How far a density may be above its ceiling, and how much of the best reward is required."""
MOST = 10.0
"""The largest excess that counts: the first policies are far too low, and would set all prices too
high. The share of a rare level in a batch is noisy, and a smaller limit would bias its mean."""
MIDDLE = 1
"""The ceiling for which policies are made sparse."""
AT_ONCE = 5
"""Iterations between evaluations of the policy."""


class Arm(NamedTuple):
    """Learners of one program.

    Attributes:
      kind: how networks are sparse.
      costs: [bounds, states].
      limits: by name: [bounds], on the shares of all steps.
    """

    kind: Kind
    costs: np.ndarray
    limits: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """Arms are trained one after another, all seeds of one in the same program."""

    seeds: int = 3
    iterations: int = 600
    """Of PPO; a multiple of 10."""
    integral: float = 0.03
    """Weight of the accumulated relative excess in a multiplier."""
    proportional: float = 0.1
    """Weight of the current excess."""
    ppo: Ppo = dataclasses.field(
        default_factory=lambda: Ppo(
            copies=128, steps=16, passes=2, batches=4, learning_rate=1e-3, gamma=1.0, entropy=0.003
        )
    )
    """Of the policy; the car's end has its discount."""
    quick: bool = False
    """One seed, fewer iterations."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "iterations")
        if self.iterations % (2 * AT_ONCE):
            raise ValueError(
                f"--iterations got {self.iterations}; give a multiple of {2 * AT_ONCE}"
            )
        if not self.integral > 0:
            raise ValueError(f"--integral got {self.integral}; give a number above 0")


QUICK = Settings(seeds=1, iterations=20, quick=True)


def ceiling(top: float) -> np.ndarray:
    """[LOW], shares of all steps: the logistic curve top / (1 + exp(-8 (x - 1/4))) of energy x."""
    return top / (1 + np.exp(-8 * (np.arange(LOW) / battery.FULL - 0.25)))


def lowness() -> np.ndarray:
    """[1, states], how far energy is below one half."""
    energy = np.arange(battery.FULL + 1) / battery.FULL
    return np.maximum(0.0, 0.5 - energy)[None] @ battery.levels()


def arms() -> dict[str, Arm]:
    """All learners, by how they are bounded."""
    levels = battery.levels()[:LOW]
    tops = {f"ceiling {top:g}": ceiling(top) for top in TOPS}
    middle = dict([list(tops.items())[MIDDLE]])
    return {
        "densities": Arm(Kind(), levels, tops),
        "value cost": Arm(Kind(), lowness(), {f"weight {w}": np.array([1 / w]) for w in WEIGHTS}),
        "densities, 80 % sparse": Arm(Kind(drawn(0.2)), levels, middle),
        "densities, 95 % sparse": Arm(Kind(drawn(0.05)), levels, middle),
    }


def relative(cost: Array, limit: Array) -> Array:
    """The fraction of its limit by which a cost exceeds it, at most MOST."""
    return jnp.minimum(cost / limit - 1.0, MOST)


def world(costs: np.ndarray, count: int) -> chain.Sampled:
    """The cars of all learners."""
    made = battery.chain()
    parts = *made, battery.observed(), costs
    spread = lambda one: jnp.broadcast_to(jnp.float32(one), (count, *np.shape(one)))
    return chain.Sampled(*map(spread, parts))


@functools.cache
def trainer(count: int, settings: Settings) -> Trainer:
    """With a multiplier for each bound; kinds and limits are set later."""
    one = jsparse.optim.Multiplier(
        1.0, integral=settings.integral, proportional=settings.proportional, excess=relative
    )
    observed = battery.observed().shape[1]
    network = lambda rngs: Apart(observed, 3, 1 + count, 64, rngs)
    return Trainer(settings.ppo, Choice(3), network, Kind(), 0, (one,) * count)


def learned(run: common.Run, arm: Arm, settings: Settings) -> dict[str, Any]:
    """Of each learner: shares and reward of its average policy, and of its last one.

    A killed run resumes from its last save.
    """
    names = [name for name in arm.limits for _ in range(settings.seeds)]
    limits = np.stack([arm.limits[name] for name in names])
    seeds = np.tile(np.arange(1, settings.seeds + 1), len(arm.limits)).tolist()
    common.header(run.folder, "learners", len(seeds), f"{settings.iterations} iterations")
    own, place = trainer(len(arm.costs), settings), world(arm.costs, len(seeds))
    learner = own.begin(seeds, place, arm.kind)
    within = jax.vmap(lambda one, limit: one.within(limit))
    bounds = zip(learner.bounds, jnp.float32(limits).T, strict=True)
    learner = learner._replace(bounds=tuple(within(*pair) for pair in bounds))
    made = jax.tree.map(jnp.float32, battery.chain())
    occupied = jax.jit(jax.vmap(lambda policy: policy * chain.density(made, policy)[:, None]))
    total = now = jnp.zeros((len(seeds), *made.reward.shape))
    half, looks = settings.iterations // AT_ONCE // 2, settings.iterations // AT_ONCE
    done, (learner, total, now) = run.load((learner, total, now))
    for look in range(done // AT_ONCE, looks):
        learner, _ = own.learn(learner, place, iterations=AT_ONCE)
        now = occupied(jax.nn.softmax(own.read(learner, place.seen)[0]))
        total = total + now / half * (look >= half)
        step, costs = (look + 1) * AT_ONCE, shares(now) @ within_levels(arm.costs)
        run.log(step, runs=names, reward=rewards(now), worst_of_limit=(costs / limits).max(axis=1))
        if look % 10 == 9:
            run.save(step, (learner, total, now))
    counts = [np.sum(list(weights(own.agent(learner, n).network).values()), axis=0)
              for n in range(len(seeds))]  # fmt: skip
    return {
        "bounds": names, "kept": [one / every for one, every in counts],
        "shares": shares(total), "reward": rewards(total), "last": shares(now),
    }  # fmt: skip


def within_levels(costs: np.ndarray) -> np.ndarray:
    """[levels, bounds], of costs [bounds, states] that are the same in all cells."""
    return costs[:, : battery.FULL + 1].T


def shares(occupancy: Any) -> np.ndarray:
    """[..., levels], of all steps, of occupancies [..., states, actions]."""
    return (1 - battery.DISCOUNT) * np.asarray(occupancy).sum(axis=-1) @ battery.levels().T


def rewards(occupancy: Any) -> np.ndarray:
    """[...], discounted."""
    return (np.asarray(occupancy) * battery.chain().reward).sum(axis=(-2, -1))


def best(costs: np.ndarray, limit: np.ndarray) -> tuple[float, np.ndarray]:
    """The highest reward within bounds on shares [bounds], and the shares of all levels."""
    bound = limit / (1 - battery.DISCOUNT)
    reward, density, _ = chain.optimum(battery.chain(), bound, np.zeros(len(bound)), costs)
    return reward, (1 - battery.DISCOUNT) * battery.levels() @ density


def over(share: np.ndarray, top: float) -> np.ndarray:
    """[...], the highest ratio of a share [..., levels] to its ceiling."""
    return (np.asarray(share)[..., :LOW] / ceiling(top)).max(axis=-1)


def main(settings: Settings) -> None:
    """Train what is not trained yet; print the tables and draw the pictures."""
    settings, out = settings.in_folder(f"runs/battery_car{'/quick' * settings.quick}")
    jobs, rows = arms(), {}
    progress = common.Epochs(0, len(jobs), "cars", "arm")
    for number in progress:
        name = list(jobs)[number - 1]
        run = common.open_run(out / folder(name), settings, trained=name)
        if not run.complete:
            run.finish(**learned(run, jobs[name], settings))
        rows[name] = run.final()
        progress.show(reward=np.mean(rows[name]["reward"]))
    text = told(rows, settings)
    print(text)
    pictures = [out / folder(name) / "densities.png" for name in rows]
    for row, picture in zip(rows.values(), pictures, strict=True):
        draw(row, settings, picture)
    common.show_pages(map(folder, rows), out, pictures[0], tables=text)


def folder(arm: str) -> str:
    """Of its run."""
    return arm.replace(" %", "")


def told(rows: dict[str, dict[str, Any]], settings: Settings) -> str:
    """Tables and verdicts."""
    optima = {top: best(battery.levels()[:LOW], ceiling(top))[0] for top in TOPS}
    free, low = best(lowness(), np.array([np.inf]))
    parts = [f"\nWithout bounds: reward {free:.3f}, {low[:LOW].sum():.0%} of all steps below half."]
    head = ["", "best there", "reward", *(f"of {top:g}" for top in TOPS), "last policy"]
    lines, does, met = [], {}, {}
    for name, row in rows.items():
        for n in range(0, len(row["bounds"]), settings.seeds):
            own, bound = slice(n, n + settings.seeds), row["bounds"][n]
            arm = arms()[name]
            reward, share = np.array(row["reward"][own]), np.array(row["shares"][own])
            ratios = {top: over(share, top) for top in TOPS}
            mine = [top for top in TOPS if bound == f"ceiling {top:g}"] or TOPS
            last = [over(row["last"][own], top).max() for top in mine]
            lines.append([f"{name}, {bound}", f"{best(arm.costs, arm.limits[bound])[0]:.3f}",
                          common.mean_std(reward, 3),
                          *(f"{ratios[top].max():.2f}" for top in TOPS),
                          f"{last[0]:.2f}" if len(mine) == 1 else ""])  # fmt: skip
            good = {top: (ratios[top] <= OVER) & (reward >= ENOUGH * optima[top]) for top in TOPS}
            if name == "value cost":
                does[bound] = np.all(list(good.values()), axis=0)
            elif name == "densities":
                does[name] = does.get(name, True) & good[mine[0]]
                met[bound] = ratios[mine[0]]
    parts.append("\nHighest density over ceiling, of each of the three, the worst seed:\n")
    parts.append(common.table(head, lines))
    parts.append("\n" + "\n".join(verdicts(does, met)))
    sparse = {"dense" if name == "densities" else name.partition(", ")[2]: (row, n)
              for name, row in rows.items() if name != "value cost"
              for n in [row["bounds"].index(f"ceiling {TOPS[MIDDLE]:g}")]}  # fmt: skip
    table = {name: headline.Arm(row["kept"][n : n + settings.seeds],
                                row["reward"][n : n + settings.seeds])
             for name, (row, n) in sparse.items()}  # fmt: skip
    parts.append(f"\n{headline.by_sparsity(f'reward, ceiling {TOPS[MIDDLE]:g},', table, 3)}")
    return "\n".join(parts)


def verdicts(does: dict[str, np.ndarray], met: dict[str, np.ndarray]) -> list[str]:
    """The expectations and outcomes."""
    text = lambda values: ", ".join(f"{value:.2f}" for value in values)
    lines = [headline.verdict(f"densities, {bound}: at most 5 % over", ratio <= OVER, text(ratio))
             for bound, ratio in met.items()]  # fmt: skip
    held = [not any(pair) for pair in zip(*(v for k, v in does.items() if k != "densities"),
                                          strict=True)]  # fmt: skip
    several = {k: int(np.sum(v)) for k, v in does.items()}
    said = ", ".join(f"{name} {count}" for name, count in several.items())
    claim = f"no weight does for all three ceilings (met, with {ENOUGH} of the best reward)"
    return [*lines, headline.verdict(claim, held, f"seeds for which it does: {said}")]


def draw(row: dict[str, Any], settings: Settings, path: Path) -> None:
    """Shares of all steps by energy: without bounds, and as learned, mean over seeds."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["bounds"]))
    free, energy = best(lowness(), np.array([np.inf]))[1], np.arange(battery.FULL + 1)
    figure = Figure(figsize=(3.6 * len(names), 3.4), layout="constrained")
    grid = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(grid, names, strict=True):
        n = row["bounds"].index(name)
        after = np.mean(row["shares"][n : n + settings.seeds], axis=0)
        axes.bar(energy - 0.2, free, 0.4, label="before: no bounds", color="0.75")
        axes.bar(energy + 0.2, after, 0.4, label="after", color=common.COLORS[0])
        for color, top in zip(common.COLORS[1:], TOPS, strict=False):
            if name == f"ceiling {top:g}" or name.startswith("weight"):
                axes.step(energy[:LOW], ceiling(top), where="mid", color=color,
                          label=f"ceiling {top:g}")  # fmt: skip
        axes.set(title=name, xlabel="energy")
        axes.legend(fontsize=7, frameon=False)
    grid[0].set_ylabel("share of steps")
    common.save(figure, path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
