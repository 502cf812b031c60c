"""What the first train step and surgery cost by depth, against the dense model.

Claim: the first step (tracing, lowering and compiling) of a 24-block transformer of width 64 takes
    at most 1.5 times the dense one's, and as much again for each further block; sparsify, fold,
    masks, summary and shrink are linear in depth.
Command: python -m experiments.bench.depth [--json FILE]
Minutes: 5.5 on two cores that do nothing else, half of them for the last depth.
Number: at 24 blocks Held 1.06, Threshold 1.68, Top 1.82, Gibbs 2.31; the goal of 1.5 is met by
    Held alone, and docs/results/14_depth.json says what the others compile.

Seconds are those of all processors, which other work on the machine disturbs less than the clock;
each is the least of the rounds, and caches of programs are emptied before each. The table is
written after each depth, so a run that is cut leaves the depths that it finished.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jsparse
from experiments import common, networks
from experiments.bench.rounds import Load, clocked
from experiments.bench.step import processor
from experiments.common.settings import environment

RULES = {
    "Held": jsparse.Held(),
    "Threshold": jsparse.Threshold(alpha=1e-4),
    "Top": jsparse.Top(density=0.1),
    "Gibbs": jsparse.Gibbs(density=0.1, beta=10.0),
}
Rule = Literal["Held", "Threshold", "Top", "Gibbs"]
KERNELS = "blocks/.*/kernel"
HEADS = 4
PARTS = ("trace", "lower", "compile")
SURGERY = ("sparsify", "masks", "summary", "fold", "shrink")
TEXT = jnp.zeros((8, 33), jnp.int32)
Seconds = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    depths: tuple[int, ...] = (6, 12, 24, 48)
    """Blocks."""
    width: int = 64
    """Of a block."""
    rules: tuple[Rule, ...] = get_args(Rule)
    """Beside the dense model."""
    rounds: int = 1
    """Runs of each."""
    nnx: bool = False
    """Whether steps are under `nnx.jit` in place of `jax.jit`."""
    surgery: bool = True
    """Whether to measure what is done to models outside of steps, too."""
    json: str = ""
    """File to write the tables to, as in docs/results."""

    def __post_init__(self) -> None:
        if not self.depths or min(self.rounds, *self.depths) < 1:
            raise ValueError(
                f"--depths got {self.depths}, --rounds {self.rounds}; give at least one depth, "
                "and numbers of 1 or more"
            )
        if self.width < HEADS or self.width % HEADS:
            raise ValueError(f"--width got {self.width}; give a multiple of {HEADS}, the heads")


def make(settings: Settings, depth: int) -> nnx.Module:
    """The dense model."""
    return networks.Transformer(
        128, nnx.Rngs(0), width=settings.width, blocks=depth, heads=HEADS, context=32
    )


def step(model: nnx.Module, optimizer: nnx.Optimizer, text: jax.Array) -> jax.Array:
    """A train step; the loss of the characters, []."""

    def loss_of(model: nnx.Module) -> jax.Array:
        return networks.next_character_loss(model, text) + jsparse.cost(model)

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def first_step(settings: Settings, depth: int, rule: str) -> Seconds:
    """What comes before the first step of a model runs: seconds by part."""
    model, kind = make(settings, depth), nnx.Optimizer
    if rule != "dense":
        model, kind = jsparse.sparsify(model, (KERNELS, RULES[rule])), jsparse.Optimizer
    optimizer = kind(model, optax.adam(1e-3), wrt=nnx.Param)
    graphdef, state = nnx.split((model, optimizer))

    def pure(state: Any, text: jax.Array) -> tuple[jax.Array, Any]:
        model, optimizer = nnx.merge(graphdef, state)
        return step(model, optimizer, text), nnx.state((model, optimizer))

    jax.clear_caches()
    if settings.nnx:
        traced, _, trace = clocked(lambda: nnx.jit(step).trace(model, optimizer, TEXT))
    else:
        traced, _, trace = clocked(lambda: jax.jit(pure).trace(state, TEXT))
    lowered, _, lower = clocked(traced.lower)
    *_, compiled = clocked(lowered.compile)
    return dict(zip(PARTS, (trace, lower, compiled), strict=True))


def surgery(settings: Settings, depth: int) -> Seconds:
    """What is done to a model outside of steps: seconds by name."""
    dense, taken = make(settings, depth), {}
    jax.clear_caches()
    rule = (KERNELS, RULES["Top"])
    model, _, taken["sparsify"] = clocked(lambda: jsparse.sparsify(dense, rule))
    *_, taken["masks"] = clocked(lambda: jsparse.masks(model))
    *_, taken["summary"] = clocked(lambda: str(jsparse.summary(model)))
    folded, _, taken["fold"] = clocked(lambda: jsparse.fold(model))
    *_, taken["shrink"] = clocked(lambda: jsparse.shrink(folded, TEXT[:, 1:]))
    return taken


def measured(settings: Settings) -> Iterator[dict[str, dict[int, Seconds]]]:
    """Seconds by what is measured and depth: after each depth, those of all depths so far."""
    kinds: dict[str, Callable[[int], Seconds]] = {
        rule: lambda depth, rule=rule: first_step(settings, depth, rule)
        for rule in ("dense", *settings.rules)
    }
    if settings.surgery:
        kinds["surgery"] = lambda depth: surgery(settings, depth)
    kinds["dense"](1)  # what happens once in a process
    seconds: dict[str, dict[int, Seconds]] = {kind: {} for kind in kinds}
    for depth in settings.depths:
        rounds = [{k: work(depth) for k, work in kinds.items()} for _ in range(settings.rounds)]
        for kind in kinds:
            parts = rounds[0][kind]
            seconds[kind][depth] = {n: min(one[kind][n] for one in rounds) for n in parts}
        yield seconds


def rows_of(settings: Settings, seconds: dict[str, dict[int, Seconds]]) -> list[list[str]]:
    """The table: what is measured, and by depth its seconds and their ratio to dense."""
    rows, depths = [], list(seconds["dense"])
    total = {kind: {d: sum(s.values()) for d, s in by.items()} for kind, by in seconds.items()}
    for kind in ("dense", *settings.rules):
        cells = []
        for depth in depths:
            parts = " + ".join(f"{seconds[kind][depth][part]:.1f}" for part in PARTS)
            ratio = total[kind][depth] / total["dense"][depth]
            cells.append(f"{parts} = {total[kind][depth]:.1f} ({ratio:.2f})")
        rows.append([f"first step, {kind}", *cells, growth(total[kind])])
    for name in SURGERY if settings.surgery else ():
        by = {depth: seconds["surgery"][depth][name] for depth in depths}
        rows.append([name, *(f"{value:.2f}" for value in by.values()), growth(by)])
    return rows


def growth(by: dict[int, float]) -> str:
    """How much more a block costs in the deeper half than in the less deep one: 1 if linear."""
    if len(by) < 3:
        return "-"
    depths = sorted(by)
    slope = lambda low, high: (by[high] - by[low]) / (high - low)
    return f"{slope(*depths[-2:]) / slope(depths[0], depths[-2]):.2f}"


def main(settings: Settings) -> None:
    """Measure, print the table and write it, depth by depth."""
    load, made_with = Load(), environment()
    commit = made_with.pop("commit")
    software = ", ".join(f"{name} {value}" for name, value in made_with.items())
    print(f"{software}, commit {commit}")
    for seconds in measured(settings):
        rows = rows_of(settings, seconds)
        columns = ["seconds", *(f"{depth} blocks" for depth in seconds["dense"]), "growth"]
        hardware = f"{processor()}, {os.cpu_count()} cores; {load}"
        print(f"{hardware}\n{common.table(columns, rows)}\n", flush=True)
        if settings.json:
            where = {"hardware": hardware, "software": software, "recorded_in": commit[:7]}
            write(settings, where, columns, rows)


def write(
    settings: Settings, where: dict[str, str], columns: list[str], rows: list[list[str]]
) -> None:
    """Write the table, as in docs/results."""
    result = {
        "title": f"First step{' and surgery' * settings.surgery}, by depth, under "
        f"{'nnx' if settings.nnx else 'jax'}.jit",
        "about": "Processor seconds of a transformer of width "
        f"{settings.width}: trace + lower + compile = all (ratio to dense), and surgery with "
        "`Top`. Growth is what a block costs from the second deepest model to the deepest, "
        "over what it costs up to there: 1 if linear. Goal of the ratio: 1.5.",
        "command": f"python -m experiments.bench.depth {' '.join(sys.argv[1:])}".strip(),
        **where,
        "seeds": "0",
        "columns": columns,
        "rows": rows,
    }
    Path(settings.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
