"""Bounds on where an agent may be: ceilings and floors on densities, against an exact optimum.

Claim (the paper's): with a multiplier for each state, updated by how far its density exceeds the
    bound, reinforcement learning finds the best policy within bounds on densities. Tested here
    where a linear program knows the optimum: a grid whose near door may hardly be used, one whose
      corner must be visited, and both. Greedy policies oscillate for ever, and only the average of
      their occupancies is near the optimum; a network, whose policy is soft, gets there by itself,
      and 80 % of its weights are not needed; 95 %, with random masks, is too much.

Paper: Qin, Chen and Fan, Density constrained reinforcement learning, ICML 2021, arXiv 2106.12764,
    sections 3 and 4. The grid, floors, exact densities and the sparse policies are ours; the
    paper's tasks differ, so none of its numbers is printed for comparison.

Number (3 seeds): near door at most 0.15: optimum -0.392 (0.469 without), averaged -0.392 with a
    violation below 0.0001, networks -0.394 dense, -0.389 at 80 % and -0.597 at 95 %. Corner at
    least 0.5: optimum 0.412, averaged 0.411, networks 0.406, 0.410, -0.071. Both: -0.413, -0.418,
    -0.420, -0.410, -0.637; last networks are up to 0.15 beyond a bound, as bounds still pull.

Command: python -m experiments.density_constrained            (three seeds)
         python -m experiments.density_constrained --quick    (one seed, one case of networks)
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common
from experiments.rl import headline
from experiments.rl.environments import chain, doors
from experiments.rl.networks import EVERY, MLP, drawn, flax_init, weights

STATES = doors.GRID.shape[0] * doors.GRID.shape[1]
CORNER = (0, 0)
CEILING, FLOOR = 0.15, 0.5
"""Densities allowed at the near door and required in the corner."""
CASES = {
    "near door at most 0.15": ({doors.NEAR: CEILING}, {}),
    "corner at least 0.5": ({}, {CORNER: FLOOR}),
    "both": ({doors.NEAR: CEILING}, {CORNER: FLOOR}),
}
"""Ceilings and floors by cell."""
ARMS = {"dense": 1.0, "80 % sparse": 0.2, "95 % sparse": 0.05}
"""Densities of the weights of policies."""
SHOWN = 200
"""The last policies, whose violations are shown."""
SWEEPS = 60
"""Of value iteration, after each change of the multipliers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """Seeds are those of the networks; all else is exact."""

    cases: tuple[str, ...] = tuple(CASES)
    """Cases in which networks are trained."""
    seeds: int = 3
    updates: int = 3000
    """Of the multipliers, with greedy policies."""
    rate: float = 0.005
    """How much of the excess they move by. If one update exceeds the price of a floor, the
    multiplier falls to 0 each time the floor is met, and the average is too far within it."""
    steps: int = 4000
    """Of a network, each with an update of the multipliers."""
    width: int = 64
    """Units of both hidden layers."""
    quick: bool = False
    """One seed, one case of networks."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "updates", "steps", "width")
        if not set(self.cases) <= set(CASES):
            raise ValueError(f"--cases got {self.cases}; give some of {', '.join(CASES)}")
        if not self.rate > 0:
            raise ValueError(f"--rate got {self.rate}; give a number above 0")


QUICK = Settings(cases=("near door at most 0.15",), seeds=1, steps=2000, quick=True)


def bounds(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Ceilings and floors, [states] each."""
    ceiling, floor = np.full(STATES, np.inf), np.zeros(STATES)
    for array, given in zip((ceiling, floor), CASES[case], strict=True):
        for place, allowed in given.items():
            array[doors.cell(place)] = allowed
    return ceiling, floor


def best(ceiling: np.ndarray, floor: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The optimum within bounds on the densities of states: see `chain.optimum`."""
    return chain.optimum(doors.chain(), ceiling, floor, np.eye(STATES))


def difference(cost: Array, limit: Array) -> Array:
    """How far a cost exceeds its limit, which may be 0; 0 where there is no limit."""
    return jnp.where(jnp.isfinite(limit), cost - limit, -1.0)


def multipliers(
    case: str, integral: float, proportional: float
) -> tuple[jsparse.optim.Multiplier, jsparse.optim.Multiplier]:
    """Those of ceilings and, with reversed signs, of floors; one per state."""
    ceiling, floor = bounds(case)
    floor = np.where(floor > 0, floor, -np.inf)  # nothing is required: no limit
    start = lambda limit: jsparse.optim.Multiplier(
        limit, integral=integral, proportional=proportional, excess=difference
    )
    above, below = (jax.vmap(start)(jnp.asarray(one)) for one in (ceiling, -floor))
    return above, below


Both = tuple[jsparse.optim.Multiplier, jsparse.optim.Multiplier]


def moved(both: Both, density: Array) -> Both:
    """The multipliers after measuring a density [states]."""
    update = jax.vmap(jsparse.optim.Multiplier.update)
    return update(both[0], density), update(both[1], -density)


def charge(both: Both) -> Array:
    """What a state costs for its bounds, [states]."""
    return both[0].value - both[1].value


def swings(case: str, settings: Settings) -> dict[str, Any]:
    """Greedy policies in turn with updates of the multipliers: rewards and densities of all."""
    made = doors.chain()
    reward = jnp.asarray(made.reward, jnp.float32)

    @jax.jit
    def run(both: Both) -> tuple[Array, Array]:
        def update(at: tuple, _: None) -> tuple[tuple, tuple]:
            both, value = at
            price = charge(both)[:, None]
            policy, value = chain.greedy(device, reward - price, value, SWEEPS)
            density = chain.density(device, policy)
            return (moved(both, density), value), (policy, density)

        start = (both, jnp.zeros(len(reward)))
        return jax.lax.scan(update, start, None, length=settings.updates)[1]

    device = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made)
    policies, densities = map(np.asarray, run(multipliers(case, settings.rate, 0.0)))
    occupancy = (policies * densities[..., None])[settings.updates // 3 :].mean(axis=0)
    # of occupancies, not of action probabilities; the first third is on the way
    averaged = occupancy / np.maximum(occupancy.sum(axis=1, keepdims=True), 1e-12)
    averaged[occupancy.sum(axis=1) == 0] = 1 / occupancy.shape[1]
    density = np.asarray(chain.density(device, jnp.asarray(averaged)))
    tail = densities[-SHOWN:]
    return {
        "density": density,
        "reward": float((density[:, None] * averaged * made.reward).sum()),
        "violation": violation(case, density),
        "last": [violation(case, one) for one in tail],
    }


def violation(case: str, density: np.ndarray) -> float:
    """How far the worst state is beyond its bound."""
    ceiling, floor = bounds(case)
    return float(max(0.0, (density - ceiling).max(), (floor - density).max()))


def places() -> np.ndarray:
    """[states, rows + columns], one-hot."""
    row, column = np.indices(doors.GRID.shape).reshape(2, -1)
    return np.concatenate([np.eye(8)[row], np.eye(8)[column]], axis=1).astype(np.float32)


def network(density: float, width: int, seed: int) -> nnx.Module:
    """A policy, `places` to the logits of four moves, with random masks of a density."""
    model = MLP(sum(doors.GRID.shape), 4, width, nnx.Rngs(seed), init=flax_init)
    return drawn(density, which=EVERY)(model, jax.random.key(seed))


@partial(jax.jit, static_argnames=("graph", "steps"))
def trained(graph: Any, params: Any, rest: Any, both: Both, made: chain.Chain, steps: int) -> Any:
    """The parameters after exact policy gradients: of reward - charge, with some entropy at first.

    The multipliers move at each step, by an integral and a proportional part.
    """
    tx, x, reward = optax.adam(3e-3), jnp.asarray(places()), made.reward

    def step(at: tuple, n: Array) -> tuple[tuple, None]:
        params, state, both = at
        price = charge(both)
        warmth = 0.1 * jnp.maximum(0.0, 1 - 1.5 * n / steps)

        def loss(params: Any) -> tuple[Array, Array]:
            logits = nnx.merge(graph, params, rest)(x)
            policy, log = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
            density = chain.density(made, policy)
            gain = (policy * (reward - warmth * log)).sum(axis=1) - price
            return -(density * gain).sum(), density

        gradient, density = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state, moved(both, density)), None

    start = (params, tx.init(params), both)
    return jax.lax.scan(step, start, jnp.arange(steps))[0][0]


def learned(case: str, density: float, seed: int, settings: Settings) -> dict[str, Any]:
    """One network: reward, violation and density of its last policy."""
    model = network(density, settings.width, seed)
    kept = sum(read for read, _ in weights(model).values())
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    made = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), doors.chain())
    params = trained(graph, params, rest, multipliers(case, 0.01, 1.0), made, settings.steps)
    policy = jax.nn.softmax(nnx.merge(graph, params, rest)(jnp.asarray(places())))
    found = np.asarray(chain.density(made, policy))
    reward = float((found[:, None] * np.asarray(policy) * doors.chain().reward).sum())
    return {"reward": reward, "violation": violation(case, found), "density": found,
            "weights": kept}  # fmt: skip


def main(settings: Settings) -> None:
    """Learn what is not learned yet; print the tables and draw the pictures."""
    settings, out = settings.in_folder(f"runs/density_constrained{'/quick' * settings.quick}")
    run = common.open_run(out, settings)
    rows, jobs = [row["job"] for row in run.rows()], [(case, "greedy", 0) for case in CASES]
    seeds = range(1, settings.seeds + 1)
    jobs += [(case, arm, seed) for case in settings.cases for arm in ARMS for seed in seeds]
    common.header(out, "policies", 1, f"{len(jobs) - len(rows)} of them left")
    progress = common.Epochs(len(rows), len(jobs), "densities", "policy")
    for number in progress:
        case, arm, seed = jobs[number - 1]
        if arm == "greedy":
            found = swings(case, settings)
        else:
            found = learned(case, ARMS[arm], seed, settings)
        rows.append({"case": case, "arm": arm, "seed": seed, **found})
        run.log(number, job=rows[-1])
        progress.show(reward=found["reward"], violation=found["violation"])
    if not run.complete:
        keys = ("case", "arm", "seed", "reward", "violation")
        run.finish(rows=[{key: row[key] for key in keys} for row in rows])
    rows = [row["job"] for row in run.rows()]
    text = told(rows, settings)
    print(text)
    draw_swings(rows, settings, out / "swings.png")
    draw_densities(rows, out / "densities.png")
    print(f"\npage, with pictures of densities and swings: {common.show_page(out, text)}")


def told(rows: list[dict[str, Any]], settings: Settings) -> str:
    """Tables."""
    lines = []
    free, density, _ = best(np.full(STATES, np.inf), np.zeros(STATES))
    near = doors.cell(doors.NEAR)
    parts = [
        f"\nWithout bounds: reward {free:.3f}, density at the near door {density[near]:.2f}.\n"
    ]
    for row in (row for row in rows if row["arm"] == "greedy"):
        reward, _, prices = best(*bounds(row["case"]))
        last = row["last"]
        numbers = [f"{reward:.3f}", f"{row['reward']:.3f}", f"{row['violation']:.4f}"]
        numbers += [f"{min(last):.3f} to {max(last):.3f}", f"{np.abs(prices).max():.2f}"]
        lines.append([row["case"], *numbers])
    head = ["greedy policies", "optimum", "averaged", "its violation", "violation of the last 200"]
    parts.append(common.table([*head, "highest price"], lines))
    for case in settings.cases:
        reward, lines, arms = best(*bounds(case))[0], [], {}
        for arm, kept in ARMS.items():
            own = [row for row in rows if (row["case"], row["arm"]) == (case, arm)]
            arms[arm] = headline.Arm(kept, [row["reward"] for row in own])
            most = max(row["violation"] for row in own)
            lines.append([arm, own[0]["weights"], f"{most:.4f}"])
        parts.append(f"\n{case}, networks, last policy; optimum {reward:.3f}:\n")
        parts.append(common.table(["", "weights", "largest violation"], lines))
        parts.append(f"\n{headline.by_sparsity(f'reward, {case},', arms, digits=3)}")
    return "\n".join(parts)


def draw_swings(rows: list[dict[str, Any]], settings: Settings, path: Path) -> None:
    """Violations of the last greedy policies."""
    panels = {}
    for row in (row for row in rows if row["arm"] == "greedy"):
        steps = settings.updates - len(row["last"]) + np.arange(len(row["last"]))
        panels[row["case"]] = {"greedy policy": (steps, np.array(row["last"]))}
    common.draw(panels, path, "updates of the multipliers", "violation")


def draw_densities(rows: list[dict[str, Any]], path: Path) -> None:
    """Densities before and after the bounds, with what is allowed written on the cells."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    greedy = [row for row in rows if row["arm"] == "greedy"]
    free = best(np.full(STATES, np.inf), np.zeros(STATES))[1]
    panels: list[tuple[str, Any, dict]] = [("before: without bounds", free, {})]
    for row in greedy:
        above, below = CASES[row["case"]]
        marks = {place: f"≤ {one:g}" for place, one in above.items()}
        marks |= {place: f"≥ {one:g}" for place, one in below.items()}
        panels.append((f"{row['case']}, averaged", row["density"], marks))
    figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
    walls = doors.GRID.cells(doors.GRID.labels["obstacle"])
    highest = max(float(np.max(one)) for _, one, _ in panels)
    for axes, (title, density, marks) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        shown = np.where(walls, np.nan, np.array(density).reshape(doors.GRID.shape))
        image = axes.imshow(shown, cmap="Blues", norm=PowerNorm(0.5, 0, highest))
        axes.imshow(np.where(walls, 1.0, np.nan), cmap="Greys", vmin=0, vmax=1.4)
        for place in (doors.NEAR, doors.FAR, CORNER):
            text = f"{shown[place]:.2f}" + (f"\n{marks[place]}" if place in marks else "")
            axes.text(place[1], place[0], text, ha="center", va="center", fontsize=8,
                      color="white" if shown[place] > highest / 4 else "#D55E00")  # fmt: skip
        axes.set(title=title, xticks=[], yticks=[])
    figure.colorbar(image, ax=figure.axes, label="density", shrink=0.8)
    common.save(figure, path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
