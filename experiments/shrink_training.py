"""Dynamic sparse training by output unit, with the network made smaller while it trains.

Claim: a network whose thresholds prune whole filters can lose them for good while it trains: step
    by step the loss is that of the masked network in which the same filters are held at 0, and the
    time per step shrinks with the network.

Paper: none has this comparison. The thresholds: Dynamic Sparse Training (Liu et al. 2020), here on
    the norm of filters.

Command: python -m experiments.shrink_training            (VGG-16 on CIFAR-10; needs many cores)
         python -m experiments.shrink_training --quick    (two cores: an MLP on a part of MNIST)

Three networks start alike and see the same batches: dense; masked, always of full size; shrunk,
made smaller every few steps, when the removed filters are held at 0 in the masked one. They train
in turns, some steps each, so that all run under the same load. The time of the shrunk one includes
shrinking and recompiling; the first compilation counts for none.

Long because each study is one file.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from jsparse._paths import path_of
from jsparse._surgery import copied
from jsparse.export import Cut, Record, shrink_training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The thresholds have their own learning rate, or a short run would end before they matter."""

    network: Literal["vgg-16", "mlp"] = "vgg-16"
    """The MLP, 784-1024-1024-10, is for MNIST."""
    narrow: int = 1
    """Divisor of the widths of VGG-16."""
    alpha: float = 1e-3
    """Of the thresholds, one per unit; higher is sparser."""
    threshold_rate: float = 1e-3
    """Learning rate of thresholds, biases and norms (Adam)."""
    every: int = 400
    """Steps between shrinking."""
    turn: int = 10
    """Steps that a network trains before the next one's turn."""
    seeds: int = 1
    epochs: int = 60
    batch: int = 128
    learning_rate: float = 1e-3
    """Of the weights (Adam)."""
    samples: int = 50_000
    double: bool = False
    """In float64, where rounding does not bring units over their thresholds."""
    quick: bool = False
    """An MLP on a part of MNIST."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds != 1:
            raise ValueError(f"--seeds got {self.seeds}; times are compared within one seed")
        if self.turn < 1 or self.every < 1 or self.every % self.turn:
            raise ValueError(
                f"--every is a multiple of --turn, 1 or more; got {self.every} and {self.turn}"
            )


QUICK = Settings(
    network="mlp",
    alpha=1e-3,
    every=100,
    epochs=5,
    samples=12_800,
    quick=True,
)


class MLP(nnx.Module):
    """784-1024-1024-10 with ReLU."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = {"fc1": (784, 1024), "fc2": (1024, 1024), "fc3": (1024, 10)}
        for name, (inputs, outputs) in sizes.items():
            setattr(
                self, name, nnx.Linear(inputs, outputs, rngs=rngs, **networks.torch_init(inputs))
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        x = nnx.relu(self.fc1(x.reshape(len(x), -1)))
        return self.fc3(nnx.relu(self.fc2(x)))


SPARSE = {"mlp": "fc[12]/kernel", "vgg-16": r"(conv\d+|fc1)/kernel"}
"""All layers but the last."""


def made(settings: Settings) -> tuple[nnx.Module, nnx.Module]:
    """The dense network and the sparse one, with the same weights."""
    rngs, mlp = nnx.Rngs(0), settings.network == "mlp"
    dense = MLP(rngs) if mlp else networks.VGG16(rngs, settings.narrow)
    rule = jsparse.Threshold(alpha=settings.alpha, unit=jsparse.Filter(), scope=jsparse.Each())
    both = dense, jsparse.sparsify(dense, (SPARSE[settings.network], rule))
    if settings.double:
        for model in both:
            nnx.update(model, jax.tree.map(doubled, nnx.state(model)))
    return both


def doubled(leaf: jax.Array) -> jax.Array:
    """Numbers of float32 as float64."""
    return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf


def enable_x64(on: bool) -> contextlib.AbstractContextManager:
    """Whether JAX keeps float64, inside."""
    here = jax if hasattr(jax, "enable_x64") else jax.experimental  # since jax 0.8
    return here.enable_x64(on)


@nnx.jit
def step(model: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    """One train step; the loss of the task, []."""

    def loss(model: nnx.Module) -> tuple[jax.Array, jax.Array]:
        task = optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
        return task + jsparse.cost(model), task

    grads, task = nnx.grad(loss, has_aux=True)(model)
    optimizer.update(model, grads)
    return task


class Contestant:
    """A network in training.

    Attributes:
      losses: of each step.
      clock: seconds of training after each turn.
      extra: the seconds of these spent on shrinking and recompiling.
      held: what is held, the last of them.
    """

    def __init__(self, model: nnx.Module, settings: Settings):
        tx = jsparse.route(
            model, optax.adam(settings.learning_rate), optax.adam(settings.threshold_rate)
        )
        self.model, self.optimizer = copied(model), jsparse.Optimizer(model, tx)
        self.losses: list[float] = []
        self.clock: list[float] = []
        self.extra = 0.0
        self.held: list[Held] = []

    def compile(self, x: np.ndarray, y: np.ndarray) -> None:
        """Compile the step, on copies."""
        jax.block_until_ready(step(copied(self.model), nnx.clone(self.optimizer), x, y))

    def train(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """A turn."""
        seconds = self.clock[-1] if self.clock else 0.0
        for x, y in batches:
            start = time.perf_counter()
            self.losses.append(float(step(self.model, self.optimizer, x, y)))
            seconds += time.perf_counter() - start
            if self.held:
                self.held[-1].again()
        self.clock.append(seconds)

    def shrink(self, x: np.ndarray, y: np.ndarray) -> Record:
        """Remove dead units."""
        start = time.perf_counter()
        self.model, self.optimizer, record = shrink_training(self.model, self.optimizer, x[:2])
        self.compile(x, y)
        self.extra += time.perf_counter() - start
        self.clock[-1] += time.perf_counter() - start
        return record


class Held:
    """What is removed from a network, held at 0 in one of full size: the masked run to compare
    with.

    Weights without a unit that stays are 0, as are all other parameters of what went. Those that
    stayed within a unit stay as they are, for they count in its norm; what they read is 0.

    Args:
      model: of full size; changed in place.
      small: the smaller one, whose biases have taken up constants.
      cuts: from the full size to the smaller one.
    """

    def __init__(self, model: nnx.Module, small: nnx.Module, cuts: Mapping[str, Cut]):
        self.model, self.held = model, []
        mine, state = _leaves(small), nnx.state(model)
        now = []
        for path, leaf in _leaves(model).items():
            name = path.removesuffix("/weight")
            cut, value = cuts.get(name, Cut(shape=leaf.shape, keep={})), np.array(leaf)
            if path.endswith("bias"):
                value[list(cut.keep.get(0, range(len(value))))] = mine[path]
            mirrors = cut.shape == leaf.shape
            stays = cut.zeroed(np.ones(leaf.shape)) > 0 if mirrors else np.ones(leaf.shape) > 0
            last = {axis: kept for axis, kept in cut.keep.items() if axis == leaf.ndim - 1}
            zero = Cut(shape=cut.shape, keep=cut.keep if name == path else last)
            now.append(jnp.asarray(value))
            was = zero.zeroed(value) if mirrors else value
            self.held.append((jnp.asarray(stays), jnp.asarray(was, leaf.dtype)))
        nnx.update(model, jax.tree.unflatten(jax.tree.structure(state), now))
        self.again()

    def again(self) -> None:
        """Set what is held to what it was, after a train step."""
        state = nnx.state(self.model)
        fixed = _fixed(jax.tree.leaves(state), self.held)
        nnx.update(self.model, jax.tree.unflatten(jax.tree.structure(state), fixed))


@jax.jit
def _fixed(leaves: list[jax.Array], held: list[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
    return [jnp.where(stays, leaf, was) for leaf, (stays, was) in zip(leaves, held, strict=True)]


def _leaves(model: nnx.Module) -> dict[str, Any]:
    pairs = jax.tree_util.tree_leaves_with_path(nnx.state(model))
    return {path_of(keys): leaf for keys, leaf in pairs}


def batches(
    images: datasets.Images, settings: Settings
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """The training set, reshuffled each epoch."""
    random, prepare = np.random.default_rng(0), datasets.standardize(images.train_x)
    now = []
    for _ in range(settings.epochs):
        order = random.permutation(len(images.train_x))
        for n in range(len(order) // settings.batch):
            chosen = order[n * settings.batch : (n + 1) * settings.batch]
            x = np.asarray(prepare(images.train_x[chosen]))
            now.append((x.astype(np.float64) if settings.double else x, images.train_y[chosen]))
            if len(now) == settings.turn:
                yield now
                now = []


def accuracy(model: nnx.Module, images: datasets.Images) -> float:
    """On the test images, in eval mode."""
    model = copied(jsparse.fold(model))
    model.eval()
    call, prepare = nnx.jit(lambda model, x: model(x)), datasets.standardize(images.train_x)
    parts = [slice(n, n + 500) for n in range(0, len(images.test_x), 500)]
    right = [call(model, prepare(images.test_x[p])).argmax(-1) == images.test_y[p] for p in parts]
    return float(np.concatenate(right).mean())


def train(settings: Settings, images: datasets.Images, run: common.Run) -> dict[str, Contestant]:
    """Train all three in turns."""
    dense, sparse = made(settings)
    all_three = {name: Contestant(sparse, settings) for name in ("masked", "shrunk")}
    all_three = {"dense": Contestant(dense, settings)} | all_three
    masked, shrunk = all_three["masked"], all_three["shrunk"]
    record = Record()
    steps = settings.epochs * (len(images.train_x) // settings.batch)
    common.header(run.folder, f"{settings.network} on {images.name}", 3, f"{steps} steps")
    progress = common.Epochs(0, 1, settings.network)
    for turn, now in enumerate(batches(images, settings)):
        if turn == 0:
            for one in all_three.values():
                one.compile(*now[0])
        elif turn * settings.turn % settings.every == 0:
            record = record.then(shrunk.shrink(*now[0]))
            masked.held = [Held(masked.model, shrunk.model, record.cuts)]
        order = list(all_three)[turn % 3 :] + list(all_three)[: turn % 3]
        for name in order:
            all_three[name].train(now)
        numbers = {"parameters": parameters(shrunk.model)}
        for name, one in all_three.items():
            numbers[f"{name}_loss"] = float(np.mean(one.losses[-settings.turn :]))
            numbers[f"{name}_seconds"] = one.clock[-1]
        run.log((turn + 1) * settings.turn, **numbers)
        progress.within((turn + 1) * settings.turn, steps)
    return all_three


def parameters(model: nnx.Module) -> int:
    """Of a dense network of that size."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(jsparse.fold(model), nnx.Param)))


def last_turns(one: Contestant, turns: int) -> float:
    """Seconds of a turn, the median over the last ones."""
    return float(np.median(np.diff(one.clock[-turns - 1 :])))


def draw(all_three: Mapping[str, Contestant], settings: Settings, path: Path) -> None:
    """Loss over steps and over seconds, each point the mean of a turn."""
    panels: dict[str, dict] = {"over train steps": {}, "over seconds of training": {}}
    for name, one in all_three.items():
        losses = np.asarray(one.losses).reshape(-1, settings.turn).mean(axis=1)
        panels["over train steps"][name] = (settings.turn * np.arange(1, len(losses) + 1), losses)
        panels["over seconds of training"][name] = (one.clock[-len(losses) :], losses)
    common.draw(panels, path, "", "loss of the task", log="y")


def compared(
    all_three: Mapping[str, Contestant], settings: Settings, images: datasets.Images, out: Path
) -> dict[str, Any]:
    """Draw the picture; return how far apart the losses are, and what each network reached."""
    draw(all_three, settings, out / "loss.png")
    masked, shrunk = (np.asarray(all_three[name].losses) for name in ("masked", "shrunk"))
    turns = max(1, settings.every // settings.turn // 2)
    reached = {
        name: {
            "seconds": one.clock[-1],
            "extra": one.extra,
            "step_ms": 1e3 * last_turns(one, turns) / settings.turn,
            "loss": float(np.mean(one.losses[-settings.turn :])),
            "accuracy": accuracy(one.model, images),
            "parameters": parameters(one.model),
        }
        for name, one in all_three.items()
    }
    return {"apart": float((np.abs(masked - shrunk) / masked).max())} | reached


def main(settings: Settings) -> None:
    """Train dense, masked and shrunk; print the table and draw the picture."""
    images = settings.images(datasets.mnist if settings.network == "mlp" else datasets.cifar10)
    name = settings.network + "-double" * settings.double
    out = Path(settings.out or f"runs/shrink_training/{name}")
    run = common.open_run(out, dataclasses.replace(settings, out=str(out)), images=images.name)
    if not run.complete:
        run.forget_after(0)
        with enable_x64(settings.double):
            run.finish(**compared(train(settings, images, run), settings, images, out))
    show(run.final(), settings, images, out)


def show(final: Mapping[str, Any], settings: Settings, images: datasets.Images, out: Path) -> None:
    """Print what a run reached."""
    print(f"{images.name}, {settings.network}, batch {settings.batch}:\n")
    dense = final["dense"]
    rows = [
        [
            name,
            f"{one['parameters']:,}",
            f"{one['seconds']:.1f}",
            f"{one['extra']:.1f}",
            f"{one['step_ms']:.1f}",
            f"{one['step_ms'] / dense['step_ms']:.2f}",
            f"{one['loss']:.4f}",
            f"{100 * one['accuracy']:.2f}",
        ]
        for name, one in ((name, final[name]) for name in ("dense", "masked", "shrunk"))
    ]
    header = ["", "parameters", "seconds", "of them shrinking", "last steps [ms]", "/ dense"]
    print(common.table([*header, "loss", "accuracy [%]"], rows))
    print(f"\nshrunk against masked, largest relative difference of a loss: {final['apart']:.1e}")
    print(f"picture: {out / 'loss.png'}\npage: {jsparse.report.page(out)}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
