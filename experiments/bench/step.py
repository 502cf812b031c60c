"""What masks cost in a train step, against the dense network and third-party code.

Claim: at batch 64 a step with learned thresholds takes at most 1.2 times the dense one on
    LeNet-300-100 and 1.05 on LeNet-5 and a transformer, at batch 128 1.05 on VGG-16 and WRN-16-8;
    with Gibbs masks at most 1.15 on ResNet-20 at batch 128, and 1.5 for filters drawn in 50 sweeps.
Command: python -m experiments.bench.step [--authors FOLDER] [--jaxpruner FOLDER]
    with checkouts of github.com/junjieliu2910/DynamicSparseTraining (needs torch) and of
    github.com/google-research/jaxpruner.
Minutes: 5 on two otherwise idle cores.

A step is SGD with momentum on a donated state: loss, regularizer, gradients, weights, reset check.
Ratios are medians over rounds of the ratio within a round, with quartiles; compiling (tracing
included) is timed once. All contenders take turns in one run; third-party code has its own process,
idle while the others are timed.
"""

import dataclasses
import importlib.util
import os
import platform
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments import common, networks
from experiments.bench import others
from experiments.bench.networks import KERNELS, MASKS, NETWORKS, Network, variants
from experiments.bench.others import EVERY, MOMENTUM, RATE, data
from experiments.bench.rounds import Here, Load, There, in_turns, made_with, ratio
from jsparse._versions import _version

THEIRS = {
    "authors": ("authors", others.authors, 1),
    "jaxpruner-static": ("jaxpruner", others.jaxpruner_static, 1),
    "jaxpruner-magnitude": ("jaxpruner", others.jaxpruner_magnitude, EVERY),
}
"""By label: whose checkout, the step, and how many calls of it belong together."""
SCANNED = 50
"""Steps in one `lax.scan`."""
SEEDS = 5
TX = optax.sgd(RATE, momentum=MOMENTUM)  # so small a rate that the state stays where it is
Name = Literal[
    "lenet-300-100",
    "lenet-5",
    "vgg-16",
    "wrn-16-8",
    "mlp-1024",
    "resnet-20",
    "transformer",
    "seeds",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    rounds: int = 15
    """Samples of each candidate."""
    only: tuple[Name, ...] = ()
    """Networks to measure, and the five seeds in one program; by default all."""
    authors: str = ""
    """Checkout of the PyTorch code of Dynamic Sparse Training."""
    jaxpruner: str = ""
    """Checkout of jaxpruner."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"--rounds got {self.rounds}; give 1 or more")


def train_step(graphdef: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
    """(params, rest, optax state) to the next ones, and the loss of the task, []."""
    params, rest, optimizer = state

    def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        # a copy, for batch statistics are written within the trace of the gradient
        model = nnx.merge(graphdef, params, rest, copy=True)
        task = optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
        return task + jsparse.cost(model), (task, nnx.split(model, nnx.Param, ...)[2])

    grads, (task, rest) = jax.grad(loss_of, has_aux=True)(params)
    updates, optimizer = TX.update(grads, optimizer, params)
    model = jsparse.advance(nnx.merge(graphdef, optax.apply_updates(params, updates), rest))
    _, params, rest = nnx.split(model, nnx.Param, ...)
    return (params, rest, optimizer), task


class Step(Here):
    """The jitted train step of a model, or many in a scan.

    Attributes:
      arena: bytes of temporary memory of the program.
      compiling: seconds of tracing and compiling.
      loss: of the task at the start.
    """

    def __init__(self, model: nnx.Module, x: np.ndarray, y: np.ndarray, steps: int = 1):
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        once = lambda state, batch: train_step(graphdef, state, *batch)
        many = lambda state, batch: jax.lax.scan(once, state, batch)
        batch = (jnp.asarray(x), jnp.asarray(y))
        if steps > 1:
            batch = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], steps, axis=0), batch)
        jitted = jax.jit(many if steps > 1 else once, donate_argnums=0)
        state = jax.tree.map(jnp.array, (params, rest, TX.init(params)))
        start = time.perf_counter()
        memory = jitted.lower(state, batch).compile().memory_analysis()
        self.compiling = time.perf_counter() - start
        self.arena = memory.temp_size_in_bytes
        state, loss = jitted(state, batch)
        self.loss = float(loss.reshape(-1)[0])
        super().__init__(lambda state: jitted(state, batch), state, steps)


def measure(name: str, network: Network, rounds: int) -> None:
    """Dense, learned thresholds and a stored mask, alone and in a scan; prints a table."""
    x, y = network.draw(np.random.default_rng(0))
    steps: dict[str, Step] = {}
    scanned = [1, SCANNED] if name.startswith("lenet") else [1]
    Step(network.make(nnx.Rngs(0)), x, y)  # what compiles first pays for more than itself
    for what, model in variants(network).items():
        for count in scanned:
            steps[_label(what, count)] = Step(model, x, y, count)
    losses = [step.loss for step in steps.values()]
    if network.rules is MASKS and not np.allclose(losses, losses[0], rtol=1e-4):
        raise RuntimeError(f"{name}: nothing is masked yet, but the losses differ: {losses}")
    load = Load()
    times = in_turns(steps, rounds)
    rows = []
    for what, step in steps.items():
        reference = times[_label("dense", step.steps)]
        arena, compiling = f"{step.arena / 2**20:.1f}", f"{step.compiling:.2f}"
        more = f"{step.compiling / steps[_label('dense', step.steps)].compiling:.2f}"
        rows.append(
            [what, _ms(times[what]), *ratio(times[what], reference), arena, compiling, more]
        )
    rule = next(iter(network.rules))
    kernels = sum(mask.size for mask in jsparse.masks(variants(network)[rule]).values())
    goal = f", goal {network.goal:g}" if network.goal < float("inf") else ""
    print(f"\n{name}: batch {len(x)}, {kernels:,} weights, loss {losses[0]:.3f}{goal}; {load}")
    head = ["step", "ms", "/ dense", "quartiles", "arena [MiB]", "to compile [s]", "/ dense"]
    print(common.table(head, rows), flush=True)


def compare(name: str, network: Network, settings: Settings) -> None:
    """Learned thresholds against the authors' code and jaxpruner; prints a table."""
    folders = {"authors": settings.authors, "jaxpruner": settings.jaxpruner}
    if settings.authors and not importlib.util.find_spec("torch"):
        print("\nthe authors' code needs torch, which is not installed: left out")
        folders["authors"] = ""
    ask = {
        other: (step, str(Path(folders[whose]).resolve()), whole)
        for other, (whose, step, whole) in THEIRS.items()
        if folders[whose]
    }
    if not ask:
        return
    model = variants(network)["Threshold"]
    ours = [_label("Threshold", count) for count in (1, SCANNED)]
    with ExitStack() as stack:
        candidates: dict[str, Here | There] = {
            _label("Threshold", count): Step(model, *data(), count) for count in (1, SCANNED)
        }
        for other, (step, folder, whole) in ask.items():
            candidates[other] = stack.enter_context(There(step, folder, name, whole))
        load = Load([c.process.pid for c in candidates.values() if isinstance(c, There)])
        times = in_turns(candidates, settings.rounds)
        rows = [
            [what, _ms(times[what]), f"{candidates[what].loss:.3f}"]
            + [text for reference in ours for text in ratio(times[what], times[reference])]
            for what in candidates
        ]
        print(f"\n{name}: batch {len(data()[0])}, the authors' loss is with regularizer; {load}")
    header = ["step", "ms", "loss", "/ one step", "quartiles", "/ in a scan", "quartiles"]
    print(common.table(header, rows), flush=True)


def seeds(rounds: int) -> None:
    """Five seeds of LeNet-300-100 in one program, against as many times one; prints a table."""
    x, y = data()
    x = jnp.asarray(np.tile((255 * x).astype(np.uint8), (SCANNED, 1, 1)))
    y = jnp.asarray(np.tile(y, SCANNED))

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return jsparse.sparsify(networks.LeNet300(rngs), (KERNELS, jsparse.Threshold()))

    def epoch(count: int) -> Here:
        sweep = common.Sweep(make, TX, len(x) // SCANNED, common.side_by_side)
        runs = sweep.start(range(count), [5e-4] * count)
        return Here(lambda runs: sweep.epoch(runs, x, y), runs, SCANNED)

    names = {"one seed": 1, f"{SEEDS} seeds": SEEDS}
    load = Load()
    times = in_turns({name: epoch(count) for name, count in names.items()}, rounds)
    one = times["one seed"]
    rows = [
        [name, _ms(times[name]), *ratio(times[name], count * one)] for name, count in names.items()
    ]
    print(f"\nlenet-300-100: batch 64, seeds side by side, {SCANNED} steps in a scan; {load}")
    print(common.table(["step", "ms", "/ as many alone", "quartiles"], rows), flush=True)


def main(settings: Settings) -> None:
    """Measure what was asked for, network by network."""
    print(f"{jax.default_backend()}: {processor()}, {os.cpu_count()} cores")
    print(made_with(torch=_version("torch"), rounds=settings.rounds))
    wanted = settings.only or (*NETWORKS, "seeds")
    for name, network in NETWORKS.items():
        if name in wanted:
            measure(name, network, settings.rounds)
            if name.startswith("lenet"):
                compare(name, network, settings)
            jax.clear_caches()
    if "seeds" in wanted:
        seeds(settings.rounds)


def _label(what: str, steps: int) -> str:
    return what if steps == 1 else f"{what}, {steps} in a scan"


def _ms(times: np.ndarray) -> str:
    return f"{1000 * np.median(times):.3f}"


def processor() -> str:
    """Its name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
