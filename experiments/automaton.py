"""Agents that obey a property in temporal logic: the product of a grid and an automaton.

Claim (the paper's): Q-learning on the product satisfies the property with the highest probability
    possible, in an order of magnitude fewer iterations than earlier methods. Tested here against
    exact probabilities on all 25 published grid tasks (Pac-Man, where ghosts move, is left out),
    and against agents without the automaton: one that sees only its cell, and one that also
    remembers the last two labels. All are rewarded for acceptance only.

Paper: Hasanbeig, Kroening and Abate, LCRL: certified policy synthesis via logically-constrained
    reinforcement learning, QEST 2022; grids, labels and properties are those of its code. Ours are
    the reading of infinite words, the discount of all steps, which the authors' rule lacks, the
    replay of the last steps in reverse, and the sparse networks.

Success, as in the paper, is that an accepting state is entered once, here within four times the
    steps of the best policy. To satisfy the property for ever is a different matter: where moves
    slip, an unsafe cell is entered eventually unless the agent can stay in a cell, so the
    probability is 0 on lakes 3 to 6 and on all three worlds.

Number (5 seeds): exact 0.999998, 0.999999 and 1.000000 on lakes 1 to 3; on all tasks the worst seed
    reaches at least 0.987 of the exact probability. Without the automaton the cell alone is enough
    on 9 tasks; with two labels 17 of 19 are learned, in 0.4 to 38 times the steps, median 3.

Command: python -m experiments.automaton            (all tasks, 4 minutes of processor time)
         python -m experiments.automaton --quick    (lakes 1 and 2, minecraft 1 to 3)
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.rl import tabular
from experiments.rl.environments import automata, exact, grids

MARKS, CHUNK = 14, tabular.CHUNK
ENOUGH = 0.95
"""Of the exact probability."""
LARGEST = 400
"""Most cells of a grid on which the memory of two labels is tried."""
ALONE = np.zeros((1, 99), int)
"""The moves of no memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """Tasks are learned one after another, all seeds of one side by side."""

    tasks: tuple[str, ...] = tuple(grids.TASKS)
    """Names of tasks."""
    seeds: int = 5
    steps: int = 170
    """Of each agent, for each state of the product; 50,000 at least."""
    quick: bool = False
    """Five tasks, three seeds."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "steps")
        if not self.tasks or not set(self.tasks) <= set(grids.TASKS):
            raise ValueError(f"--tasks got {self.tasks}; give some of {', '.join(grids.TASKS)}")


QUICK = Settings(
    tasks=("lake 1", "lake 2", "minecraft 1", "minecraft 2", "minecraft 3"), seeds=3, quick=True
)


def agents(grid: grids.Grid) -> dict[str, tuple[np.ndarray | None, tabular.Rates]]:
    """The memory of each agent, if it does not see the automaton, and how it learns."""
    letters = len(grid.letters)
    found = {
        "product": (None, tabular.Rates()),
        "product, authors' rule": (None, tabular.PUBLISHED),
        "cell alone": (ALONE[:, :letters], tabular.Rates()),
    }
    if np.prod(grid.shape) <= LARGEST:
        found["two labels"] = automata.remembered(grid.letters, 2), tabular.Rates()
    return found


def learned(
    made: grids.Product, rates: tabular.Rates, total: int, seeds: int, within: int
) -> tuple[list[int], list[float], list[list[float]], np.ndarray]:
    """Steps, episodes and exact success of each seed at each mark; and the first seed's policy."""
    wide = tabular.padded(made)
    learner, device, done = tabular.begin(wide, rates, seeds), tabular.on_device(wide), 0
    marks = np.unique(np.ceil(np.geomspace(CHUNK, total, MARKS) / CHUNK).astype(int)).tolist()
    episodes, found, policies = [], [], []
    for mark in marks:
        counts = jnp.int32(mark - done), jnp.float32(done * CHUNK), jnp.float32(total)
        learner, done = tabular.learn(learner, device, rates, *counts), mark
        policies = [tabular.policy(made, table) for table in np.asarray(learner.table)]
        episodes.append(float(learner.episodes.mean()))
        found.append([exact.success(made, one, within)[0] for one in policies])
    return [mark * CHUNK for mark in marks], episodes, found, policies[0]


def study(name: str, settings: Settings) -> dict[str, Any]:
    """All agents on one task, and the exact values."""
    grid, automaton = grids.task(name)
    made = grids.product(grid, automaton)
    value, sweeps = exact.best(made)
    guide = exact.best(made, 0.99)[0]
    policy = exact.backup(made, guide, 0.99).argmax(axis=1)
    chance, visits = exact.success(made, policy, tabular.Rates().limit)
    total, within = max(50_000, settings.steps * len(made.nexts)), int(4 * visits.sum())
    found: dict[str, Any] = {"task": name, "property": automaton.property, "within": within}
    found |= {"exact": float(value[made.start]), "sweeps": sweeps, "reached": chance}
    found |= {"for ever": exact.for_ever(made), "states": len(made.nexts), "agents": {}}
    for agent, (memory, rates) in agents(grid).items():
        own = made if memory is None else grids.product(grid, automaton, memory)
        steps, episodes, rows, policy = learned(own, rates, total, settings.seeds, within)
        found["agents"][agent] = {"steps": steps, "episodes": episodes, "success": rows}
        if agent == "product":
            visits = exact.success(made, policy, within)[1]
            found["visits"] = visits.reshape(len(automaton.moves), *grid.shape)
    return found


def needed(agent: dict[str, Any], level: float) -> list[float]:
    """Steps of each seed after which success stays at a level; infinite where it does not."""
    low = np.array(agent["success"]) < level
    steps = np.array([*agent["steps"], np.inf])
    after = np.where(low.any(axis=0), len(low) - low[::-1].argmax(axis=0), 0)
    return steps[after].tolist()


def thousands(steps: float) -> str:
    """Steps as text, in thousands."""
    return f"{steps / 1000:g}" if np.isfinite(steps) else "never"


def told(rows: list[dict[str, Any]], settings: Settings) -> str:
    """Tables."""
    names = list(dict.fromkeys(agent for row in rows for agent in row["agents"]))
    lines, speed = [], []
    ratios: dict[str, list[float]] = {agent: [] for agent in names}
    for row in rows:
        level = ENOUGH * row["exact"]
        ends = {agent: row["agents"][agent]["success"][-1] for agent in row["agents"]}
        lines.append([row["task"], row["states"], f"{row['exact']:.6f}", f"{row['for ever']:.6f}"]
                     + [f"{np.mean(ends[a]):.3f}" if a in ends else "" for a in names]
                     + [f"{min(ends['product']) / row['exact']:.3f}"])  # fmt: skip
        taken = {a: float(np.median(needed(one, level))) for a, one in row["agents"].items()}
        speed.append([row["task"], *(thousands(taken[a]) if a in taken else "" for a in names)])
        if np.isfinite(taken["product"]):  # there is no ratio to a level that was never reached
            for agent, steps in taken.items():
                ratios[agent].append(steps / taken["product"])
    seeds = common.counted(settings.seeds, "seed")
    parts = [f"\nThe probability of acceptance, exact, and of greedy policies, {seeds}:\n"]
    head = ["task", "states", "exact", "for ever", *names, "least / exact"]
    parts.append(common.table(head, lines))
    parts.append(f"\nThousands of steps to {ENOUGH:.0%} of the exact probability, medians:\n")
    parts.append(common.table(["task", *names], speed))
    parts.append("\nSteps of an agent over those of the product, over tasks that it learns:\n")
    form = lambda x: f"{x:.1f}" if np.isfinite(x) else "never"
    body = [
        [agent, len(own), sum(map(np.isfinite, own)), form(float(np.median(own))) if own else ""]
        for agent, own in ratios.items()
    ]
    parts.append(common.table(["agent", "tasks", "of them reached", "median ratio"], body))
    return "\n".join(parts)


def draw_success(rows: list[dict[str, Any]], path: Path) -> None:
    """Success of all agents against episodes, by task."""
    panels = {
        row["task"]: {
            agent: (np.maximum(one["episodes"], 0.5), np.array(one["success"]))
            for agent, one in row["agents"].items()
        }
        for row in rows
    }
    common.draw(panels, path, "episodes", "probability of acceptance", log="x", columns=5)


def draw_visits(rows: list[dict[str, Any]], path: Path) -> None:
    """Where the learned policy goes in each state of the automaton, on what the cells hold."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["task"] in ("lake 1", "lake 4", "minecraft 3", "world 1")]
    shown = shown or rows[:1]
    columns = max(len(row["visits"]) for row in shown) - 1
    figure = Figure(figsize=(3 * columns, 3.3 * len(shown)), layout="constrained")
    for line, row in zip(figure.subplots(len(shown), columns, squeeze=False), shown, strict=True):
        visited = [(q, np.array(one)) for q, one in enumerate(row["visits"]) if np.any(one)]
        for axes in line[len(visited) :]:
            axes.set_visible(False)
        for axes, (state, visits) in zip(line, visited, strict=False):
            _draw_grid(axes, grids.task(row["task"])[0], visits)
            axes.set_title(f"{row['task']}, state {state}", fontsize=10)
    common.save(figure, path)


def _draw_grid(axes: Any, grid: grids.Grid, visits: np.ndarray) -> None:
    rows, columns = grid.shape
    axes.imshow(np.where(visits > 1e-4, visits, np.nan) ** 0.5, cmap="Blues", vmin=0)
    for name, boxes in grid.labels.items():
        color = {"unsafe": "#D55E00", "obstacle": "0.3"}.get(name, "#009E73")
        inside = grid.cells(boxes).repeat(8, 0).repeat(8, 1)
        extent = (-0.5, columns - 0.5, -0.5, rows - 0.5)
        axes.contourf(inside, [0.5, 1.5], colors=[color], alpha=0.25, extent=extent)
        for top, bottom, left, right in map(grids.box, boxes):
            middle = (left + right - 1) / 2, (top + bottom - 1) / 2
            axes.text(*middle, name.replace("_", "\n"), fontsize=5, ha="center", va="center")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])


def main(settings: Settings) -> None:
    """Learn what is not learned yet; print the tables and draw the pictures."""
    settings, out = settings.in_folder(f"runs/automaton{'/quick' * settings.quick}")
    run = common.open_run(out, settings)
    rows = [row["job"] for row in run.rows()]
    common.header(
        out, "tables of values", settings.seeds, f"{len(settings.tasks) - len(rows)} tasks left"
    )
    progress = common.Epochs(len(rows), len(settings.tasks), "automaton", "task")
    for number in progress:
        rows.append(study(settings.tasks[number - 1], settings))
        run.log(number, job=rows[-1])
        ends = rows[-1]["agents"]["product"]["success"][-1]
        progress.show(success=float(np.mean(ends)), exact=rows[-1]["exact"])
    if not run.complete:
        keys = ("task", "states", "exact", "for ever", "sweeps", "reached")
        run.finish(rows=[{key: row[key] for key in keys} for row in rows])
    rows = [row["job"] for row in run.rows()]
    text = told(rows, settings)
    print(text)
    draw_success(rows, out / "automaton.png")
    draw_visits(rows, out / "visits.png")
    print(f"\npage, with pictures of success and visits: {common.show_page(out, text)}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
