"""One network with one mask per state of an automaton, against one that is told the state.

Claim (ours): where a policy depends on the state of an automaton, a network needs no input for it:
    one sparse mask per state, over weights that all states share, tells them apart. Compared with
    one network per state, as the authors have it, and with one that is told the state, dense and
    with one mask. The network learns from sampled steps; its greedy policy is evaluated exactly.

Paper: Hasanbeig, Abate and Kroening, Logically-constrained neural fitted Q-iteration, AAMAS 2019,
    arXiv 1809.07823, has a network for each state. The masks, the uniform samples and the grid
    (the small slippery one of LCRL, four goals in turn) are ours.

Number (2 seeds): accepted with probability 1.000 dense, at 80 % (one mask, or one per state) and
    with one network per state; 300 weights (95 %) are too few either way (0.000, 0.002).

Command: python -m experiments.automaton_masks            (two seeds, 1.5 minutes of processor time)
         python -m experiments.automaton_masks --quick    (one seed, two arms)
"""

import dataclasses

import numpy as np

from experiments import common
from experiments.rl import fitted, headline, tabular
from experiments.rl.environments import exact, grids

ARMS = {
    "told the state, dense": fitted.Arm(1.0, "input"),
    "told the state, 80 % sparse": fitted.Arm(0.2, "input"),
    "told the state, 95 % sparse": fitted.Arm(0.05, "input"),
    "a mask for each state, 80 % sparse": fitted.Arm(0.2, "masks"),
    "a mask for each state, 95 % sparse": fitted.Arm(0.05, "masks"),
    "a network for each state, dense": fitted.Arm(1.0, "networks"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """Networks are trained one after another."""

    task: str = "slippery small, hard"
    """A task of `experiments.automaton`."""
    arms: tuple[str, ...] = tuple(ARMS)
    """How states share a network."""
    seeds: int = 2
    steps: int = 10_000
    """Of Adam, each on 256 sampled steps of the product."""
    width: int = 64
    """Units of both hidden layers."""
    quick: bool = False
    """One seed, two arms."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "steps", "width")
        if self.task not in grids.TASKS:
            raise ValueError(f"--task got {self.task!r}; give one of {', '.join(grids.TASKS)}")
        if not self.arms or not set(self.arms) <= set(ARMS):
            raise ValueError(f"--arms got {self.arms}; give some of {', '.join(ARMS)}")


QUICK = Settings(
    arms=("told the state, dense", "a mask for each state, 80 % sparse"), seeds=1, quick=True
)


def main(settings: Settings) -> None:
    """Train what is not trained yet and print the table."""
    settings, out = settings.in_folder(f"runs/automaton_masks{'/quick' * settings.quick}")
    grid, automaton = grids.task(settings.task)
    made = grids.product(grid, automaton)
    device, best = tabular.on_device(made), exact.best(made)[0][made.start]
    guide = exact.backup(made, exact.best(made, 0.99)[0], 0.99).argmax(axis=1)
    within = int(4 * exact.success(made, guide, 4000)[1].sum())
    run = common.open_run(out, settings)
    jobs = [(arm, seed) for arm in settings.arms for seed in range(1, settings.seeds + 1)]
    rows = [row["job"] for row in run.rows()]
    common.header(out, "networks of values", 1, f"{len(jobs) - len(rows)} of them left")
    progress = common.Epochs(len(rows), len(jobs), "masks", "network")
    for number in progress:
        arm, seed = jobs[number - 1]
        states, actions = len(automaton.moves), made.nexts.shape[1]
        net = fitted.begin(ARMS[arm], grid.shape, states, actions, settings.width, seed)
        values = np.asarray(fitted.trained(net, device, settings.steps, seed))
        policy = np.where(made.allowed, values, -np.inf).argmax(axis=1)
        found, (one, every) = exact.success(made, policy, within)[0], fitted.weights(net)
        row = {"arm": arm, "seed": seed, "success": found, "one": one, "every": every}
        rows.append(row)
        run.log(number, job=row)
        progress.show(success=found)
    if not run.complete:
        run.finish(rows=rows)
    lines, arms = [], {}
    for arm in settings.arms:
        own = [row for row in rows if row["arm"] == arm]
        lines.append([arm, own[0]["one"], own[0]["every"]])
        arms[arm] = headline.Arm(ARMS[arm].density, [row["success"] for row in own])
    text = (
        f"\n{settings.task}: {automaton.property}, exact {best:.6f}\n\n"
        f"{common.table(['', 'weights of a state', 'of all'], lines)}\n\n"
        f"{headline.by_sparsity('probability of acceptance', arms, digits=3)}"
    )
    print(text)
    print(f"\npage: {common.show_page(out, text)}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
