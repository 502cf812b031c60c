"""How many weights each layer keeps, found by evaluations alone within a budget on any function.

Claim (the paper's): constrained reinforcement learning finds layer densities at which VGG nets
    lose 83 to 92.9 % of their parameters, and ResNet-18 75.09 %, without loss of accuracy. Tested
    here is whether reinforcement learning is needed: random search and the cross-entropy method get
    the same projection onto the budget, the same controls and the same number of evaluations, and
    all allocations the same fine-tuning. With three layers random search is as good; with seven it
    is not, and then the cross-entropy method is as good as PPO; fine-tuning removes most of the
    difference.

Paper: Malik, Haider, Iqbal and Taj, Neural network pruning through constrained reinforcement
    learning, ICPR 2022. Single weights of convolutions by magnitude, a budget on their number;
    CIFAR-10 nets, 5,000 to 2,500 evaluations with 0, 32 and 128 Adam steps each, then 25,000 to
    40,000 steps of fine-tuning. Projection, stages, controls in the pool and halving are ours.

Long because each study is one file.

Command: python -m experiments.search_budget --networks lenet-300-100 mlp-7 vgg-16 --data FOLDER
         python -m experiments.search_budget --quick        (two cores, two minutes)
         Full-width VGG-16 with the paper's numbers: --networks vgg-16 --narrow 1 --samples 50000
         --budgets 0.1 --evaluations 3000 --recover 32 --fine-tune 100    (a GPU)

Number: 2 seeds, 960 evaluations, at 10 % of the weights, fine-tuned: LeNet-300-100 uniform 95.91,
    global magnitude 96.58, ERK 96.66, random 96.61, cross-entropy 96.62, PPO 96.67 (dense 96.03,
    with 4 epochs less); seven layers 94.04, 73.48, 94.63, 94.50, 94.66, 94.51. Score of seven
    layers at 20 %: -2.10, -1.55, -1.64, -1.55, -1.19, -1.19. Published figures need a GPU.
"""

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common, datasets, networks
from jsparse import prune
from jsparse.prune._search.layers import layers_of

METHODS = {
    "random": prune.Random(),
    "cross-entropy": prune.CrossEntropy(),
    "PPO-Lagrangian": prune.Lagrangian(),
}
CONTROLS = {"uniform": "uniform", "global magnitude": "global", "ERK": "erk"}
PUBLISHED = "VGG nets on CIFAR-10 at 17 to 7.1 % of the parameters, ResNet-18 at 24.91 %, no loss"
HALF = (0.5,)
PATTERNS = {"vgg-16": "conv.*/kernel", "resnet-20": "blocks/.*/kernel"}
"""Convolutions of the networks that read CIFAR-10: 13 layers, and 20 with projections."""
WORST = 3.0
"""Losses are clipped here, or one sample would decide at low densities."""


class Deep(nnx.Module):
    """784, six times 100, 10: seven dense layers."""

    def __init__(self, rngs: nnx.Rngs):
        sizes, he = (784, *(100,) * 6, 10), nnx.initializers.he_normal()
        for n, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            setattr(self, f"fc{n}", nnx.Linear(inputs, outputs, kernel_init=he, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        x = x.reshape(len(x), -1)
        for n in range(6):
            x = nnx.relu(getattr(self, f"fc{n}")(x))
        return self.fc6(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.TrainSettings):
    """All arms of a network, a budget and a seed begin with the same trained weights."""

    networks: tuple[str, ...] = ("lenet-300-100", "mlp-7")
    """lenet-300-100 and mlp-7 (MNIST), vgg-16 and resnet-20 (CIFAR-10)."""
    budgets: tuple[float, ...] = (0.2, 0.1)
    """Fractions of the cost of the dense network."""
    costs: tuple[str, ...] = ("parameters",)
    """parameters; tiles of 8x128, which are the units then; or the latency of the shrunk network,
    with filters as units, at half of the dense one, in 60 evaluations at most."""
    evaluations: int = 960
    """Of each method."""
    recover: int = 0
    """Adam steps for each candidate; batch statistics are re-estimated in them. The scores
    of searches, whose best had more recovery, are then not those of the controls."""
    narrow: int = 8
    """Divisor of the widths of vgg-16 and resnet-20, which begin with 64 channels."""
    samples: int = 20000
    """Training images."""
    seeds: int = 3
    epochs: int = 5
    """Of the dense network."""
    fine_tune: int = 4
    """Epochs, of each allocation."""
    batch: int = 100
    learning_rate: float = 1e-3
    """Of Adam."""
    quick: bool = False
    """LeNet-300-100 alone, one seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("evaluations", "fine_tune", "samples", "narrow")
        self.check_densities(self.budgets)
        for name, given, known in (
            ("networks", self.networks, ("lenet-300-100", "mlp-7", *PATTERNS)),
            ("costs", self.costs, ("parameters", "tiles", "latency")),
        ):
            if not given or not set(given) <= set(known):
                raise ValueError(f"--{name} got {given}; give one or more of {', '.join(known)}")
        if self.recover < 0:
            raise ValueError(f"--recover got {self.recover}; give 0 or more steps")


QUICK = Settings(
    networks=("lenet-300-100",), budgets=(0.2, 0.1, 0.05), costs=("parameters", "tiles", "latency"),
    evaluations=192, samples=10000, seeds=1, epochs=4, fine_tune=2, quick=True,
)  # fmt: skip
HELD_OUT = 512
"""Training images that score candidates; the network is trained on the others."""


class Task:
    """A network with its data: trains, scores and tests; one program for all masks.

    Args:
      name: of the network.
      settings: of the study.
    """

    def __init__(self, name: str, settings: Settings):
        images = datasets.cifar10 if name in PATTERNS else datasets.mnist
        data = datasets.first_samples(images(settings.data), settings.samples)
        if len(data.train_x) < HELD_OUT + settings.batch:
            raise ValueError(f"--samples got {settings.samples}; give over {HELD_OUT} and a batch")
        self.settings, self.data, self.name = settings, data.name, name
        inputs = common.standardized(data) if name in PATTERNS else common.Inputs()
        self.x, self.y = inputs.test(jnp.asarray(data.train_x)), jnp.asarray(data.train_y)
        self.test_x, self.test_y = inputs.test(jnp.asarray(data.test_x)), jnp.asarray(data.test_y)
        self.left = len(self.x) - HELD_OUT
        self.pattern = PATTERNS.get(name, ".*/kernel")
        self.tx = optax.adam(settings.learning_rate)
        self.graph = nnx.graphdef(self.make(0))
        self._epoch = jax.jit(self._steps)
        self._right = jax.jit(self._count_right)

    def make(self, seed: int) -> nnx.Module:
        """The network at its start, under `Held`."""
        narrow = self.settings.narrow
        made: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
            "lenet-300-100": networks.LeNet300,
            "mlp-7": Deep,
            "vgg-16": lambda rngs: networks.VGG16(rngs, narrow),
            "resnet-20": lambda rngs: networks.ResNet(20, rngs, max(1, 64 // narrow)),
        }
        return jsparse.sparsify(made[self.name](nnx.Rngs(seed)), (self.pattern, jsparse.Held()))

    def train(self, model: nnx.Module, epochs: int, seed: int) -> nnx.Module:
        """The model after some epochs; its masks stay."""
        rng = np.random.default_rng(seed)
        _, params, rest = nnx.split(model, nnx.Param, ...)
        optimizer = self.tx.init(params)
        size = self.settings.batch
        progress = common.Epochs(0, epochs, self.name)
        for _ in progress:
            order = rng.permutation(self.left)[: self.left // size * size].reshape(-1, size)
            params, rest, optimizer = self._epoch(params, rest, optimizer, jnp.asarray(order))
            progress.show()
        return nnx.merge(self.graph, params, rest)

    def recover(self, model: nnx.Module, key: Array) -> nnx.Module:
        """Some train steps from the candidate's weights."""
        _, params, rest = nnx.split(model, nnx.Param, ...)
        shape = (self.settings.recover, self.settings.batch)
        order = jax.random.randint(key, shape, 0, self.left)
        params, rest, _ = self._steps(params, rest, self.tx.init(params), order)
        return nnx.merge(self.graph, params, rest)

    def score(self, model: nnx.Module) -> Array:
        """Minus the loss on the images held out, each at most `WORST`."""
        model.eval()
        x, y = self.x[self.left :], self.y[self.left :]
        losses = optax.softmax_cross_entropy_with_integer_labels(model(x), y)
        return -jnp.minimum(losses, WORST).mean()

    def accuracy(self, model: nnx.Module) -> float:
        """Fraction right of the test images."""
        parts = range(0, len(self.test_x), 500)
        state = nnx.state(model)
        right = [
            self._right(state, self.test_x[n : n + 500], self.test_y[n : n + 500]) for n in parts
        ]
        return float(sum(map(int, right)) / len(self.test_x))

    def _steps(self, params: Any, rest: Any, optimizer: Any, order: Array) -> tuple[Any, Any, Any]:
        def step(state: tuple, which: Array) -> tuple[tuple, None]:
            params, rest, optimizer = state

            def loss_of(params: Any) -> tuple[Array, Any]:
                own = jax.tree.map(jnp.asarray, rest)  # variables of this trace, to be written
                model = nnx.merge(self.graph, params, own)
                model.train()
                logits, y = model(self.x[which]), self.y[which]
                loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
                return loss, nnx.split(model, nnx.Param, ...)[2]

            grads, rest = jax.grad(loss_of, has_aux=True)(params)
            updates, optimizer = self.tx.update(grads, optimizer, params)
            return (optax.apply_updates(params, updates), rest, optimizer), None

        return jax.lax.scan(step, (params, rest, optimizer), order)[0]

    def _count_right(self, state: Any, x: Array, y: Array) -> Array:
        model = nnx.merge(self.graph, state)
        model.eval()
        return (model(x).argmax(axis=-1) == y).sum()


def kept_outputs(model: nnx.Module) -> dict[str, Array]:
    """Magnitudes; the classes are worth most, so they are pruned last."""
    found = prune.magnitudes(model)
    *_, last = found
    return found | {last: found[last] + 1e3}


UNITS = {"tiles": jsparse.Block((8, 128)), "latency": jsparse.Filter()}
WORTH = {"latency": kept_outputs}


def search(
    task: Task, dense: nnx.Module, cost: str, budget: float, method: str, seed: int, folder: Path
) -> tuple[prune.Found, float]:
    """The result of one method, and the cost of the dense network."""
    settings = task.settings
    x = task.test_x[:64]
    shrunk = lambda model: jsparse.shrink(jsparse.fold(model), x)[0]
    function = {
        "parameters": lambda model: sum(mask.sum() for mask in jsparse.masks(model).values()),
        "tiles": prune.costs.tiles(8, 128),
        "latency": prune.costs.latency(x, form=shrunk),
    }[cost]
    options: dict[str, Any] = {"method": METHODS[method], "key": jax.random.key(seed)}
    options["recover"] = task.recover if settings.recover else None
    options |= {"evaluations": settings.evaluations, "unit": UNITS.get(cost, jsparse.Weight())}
    options["importance"] = WORTH.get(cost, prune.magnitudes)
    if cost == "latency":
        few = max(16, min(60, settings.evaluations // 5))
        options |= {"evaluations": few, "traced": False}
    whole = min(float(function(dense)) for _ in range(3 if cost == "latency" else 1))
    facts = dataclasses.asdict(settings) | {"network": task.name, "data": task.data, "seed": seed}
    facts = {name: facts[name] for name in facts if name not in ("out", "networks", "budgets")}
    keep = prune.Folder(folder, facts)
    if cost == "latency":  # a second measurement would be another budget
        known = folder / "dense.txt"
        whole = float(known.read_text()) if known.exists() else whole
        folder.mkdir(parents=True, exist_ok=True)
        known.write_text(f"{whole!r}")
    found = prune.search(dense, task.score, function, budget * whole, keep=keep, **options)
    if set(found.tried.by) == {"dense"}:
        shutil.rmtree(folder)
        raise ValueError(
            f"the dense network took {whole:.3g} s and then {found.cost:.3g} s, which is within "
            f"the budget of {budget * whole:.3g} s; run this again with nothing else running"
        )
    return found, whole


def cell(
    task: Task, dense: nnx.Module, cost: str, budget: float, seed: int, folder: Path
) -> dict[str, Any]:
    """All arms of a network, a cost, a budget and a seed."""
    methods = ("random",) if cost == "latency" else tuple(METHODS)
    arms: dict[str, dict[str, float]] = {}
    marks: dict[str, Any] = {}
    for method in methods:
        found, whole = search(task, dense, cost, budget, method, seed, folder / method)
        jsparse.report.front(found.tried, folder / f"{method}.html")
        tried = found.tried
        rows = {name: tried.by.index(by) for name, by in CONTROLS.items()}
        for name, row in rows.items():
            densities = dict(zip(tried.layers, tried.densities[row].tolist(), strict=True))
            arms.setdefault(name, densities)
            marks.setdefault(name, [float(tried.score[row]), float(tried.cost[row]) / whole])
        arms[method] = found.densities
        marks[method] = [found.score, found.cost / whole]
    result: dict[str, Any] = {"arms": list(arms), "score": [], "cost": [], "before": []}
    result |= {"accuracy": [], "densities": list(arms.values())}
    for name, densities in arms.items():
        masked = with_densities(dense, densities, cost)
        tuned = task.train(masked, task.settings.fine_tune, seed)
        result["score"].append(marks[name][0])
        result["cost"].append(marks[name][1])
        result["before"].append(task.accuracy(masked))
        result["accuracy"].append(task.accuracy(tuned))
        shown = f"cost {marks[name][1]:.3f}, score {marks[name][0]:.4f}"
        print(f"  {name}: {shown}, {result['accuracy'][-1]:.2%} fine-tuned", flush=True)
    return result


def with_densities(dense: nnx.Module, densities: dict[str, float], cost: str) -> nnx.Module:
    """The dense network under the masks that the densities stand for."""
    layers = layers_of(dense, WORTH.get(cost, prune.magnitudes), UNITS.get(cost, jsparse.Weight()))
    counts = layers.counts(np.array([densities[name] for name in layers.names]))
    masks = layers.masks(layers.ranks, jnp.asarray(counts))
    return jsparse.hold(dense, {path: mask.astype(jnp.float32) for path, mask in masks.items()})


def main(settings: Settings) -> None:
    """Run what is not done yet, print the tables and draw the picture."""
    settings, out = settings.in_folder(f"runs/search_budget{'/quick' * settings.quick}")
    tasks = {name: Task(name, settings) for name in settings.networks}
    run = common.open_run(out, settings, images=sorted({task.data for task in tasks.values()}))
    if not run.complete:
        done = {(r["network"], r["what"], r["budget"], r["seed"]): r for r in run.rows()}
        for name, task in tasks.items():
            length = f"{common.counted(settings.epochs, 'epoch')}, then searches"
            for seed in range(1, settings.seeds + 1):
                common.header(out, f"{name} on {task.data}, seed {seed}", 1, length)
                dense = task.train(task.make(seed), settings.epochs, seed)
                accuracy = task.accuracy(dense)
                for cost in settings.costs:
                    for budget in HALF if cost == "latency" else settings.budgets:
                        if (name, cost, budget, seed) in done:
                            continue
                        print(f"{name}, seed {seed}, {cost} at {budget:g}:", flush=True)
                        place = out / f"{name}_{cost}_{budget:g}_{seed}"
                        row = cell(task, dense, cost, budget, seed, place)
                        facts = {"network": name, "what": cost, "budget": budget, "seed": seed}
                        run.log(len(run.rows()) + 1, **facts, dense=accuracy, **row)
        run.finish(rows=run.rows())
    show(run.final()["rows"], settings, tasks, out)


def show(rows: list[dict[str, Any]], settings: Settings, tasks: dict[str, Task], out: Path) -> None:
    """Tables by network and cost, and the picture."""
    panels: dict[str, Any] = {}
    text = ""
    for name, what in dict.fromkeys((row["network"], row["what"]) for row in rows):
        own = [row for row in rows if (row["network"], row["what"]) == (name, what)]
        dense = common.percent([r["dense"] for r in own if r["budget"] == own[0]["budget"]])
        text += f"\n{name} on {tasks[name].data}, {what}, {settings.extent}, dense {dense}:\n\n"
        arms, budgets = own[0]["arms"], list(dict.fromkeys(row["budget"] for row in own))
        lines, curves = [], {}
        for n, arm in enumerate(arms):
            cells, ends = [arm], []
            for budget in budgets:
                these = [row for row in own if row["budget"] == budget]
                cells.append(f"{np.mean([row['score'][n] for row in these]):.3f}")
                cells.append(f"{max(row['cost'][n] for row in these):.3f}")
                cells.append(common.percent([row["before"][n] for row in these]))
                ends.append([100 * row["accuracy"][n] for row in these])
                cells.append(common.mean_std(ends[-1]))
            lines.append(cells)
            curves[arm] = ([f"{budget:g}" for budget in budgets], np.array(ends))
        head = ["", *(f"{w} {b:g}" for b in budgets
                      for w in ("score,", "cost,", "before,", "tuned,"))]  # fmt: skip
        text += f"{common.table(head, lines)}\n"
        panels[f"{name}, {what}"] = curves
    print(f"{text}\npublished: {PUBLISHED}")
    axes = "budget", "accuracy after fine-tuning [%]"
    common.draw(panels, out / "search_budget.png", *axes, columns=1)  # each with its own scale
    print(f"picture: {out / 'search_budget.png'}\npages of searches: {out}/*/*.html")
    print(f"page: {common.show_page(out, text)}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
