"""A sparse network in 8 bits: the size of its file and its accuracy, stage by stage.

Claim: packing the kept weights of linear layers in 8 bits takes a third of their size in float32,
    and costs no accuracy beyond the spread of seeds.

Paper: Deep Compression (Han et al., ICLR 2016), Table 1, which also quantizes convolutions, shares
    values and entropy-codes them: LeNet-5 from 1720 to 44 KB, error 0.80 to 0.74 %. Here values are
    int8 with a scale for each output, and layers that `pack` does not take stay float32.

Command: python -m experiments.quantized            (LeNet-5 and a transformer of width 128)
         python -m experiments.quantized --quick    (a few steps: shows only that it runs)

1. Train with `Top`, at one density from the start. 2. Fold. 3. Pack, in float32 and in int8, which
takes no convolutions with a window. 4. Save. Accuracies are those of the loaded files. With qwix
installed, the folded network is also quantized by it, dense.
"""

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common, datasets, networks
from jsparse import export
from jsparse._slots import walk_modules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """One run for each network and seed."""

    networks: tuple[Literal["lenet-5", "transformer"], ...] = dataclasses.field(
        default=("lenet-5", "transformer"), metadata=common.FREE
    )
    density: float = 0.05
    """Of every kernel of LeNet-5; of those of the transformer's blocks."""
    seeds: int = dataclasses.field(default=3, metadata=common.FREE)
    steps: int = 3000
    batch: int = 64
    learning_rate: float = 2e-3
    """Of Adam, at the start; it falls along a cosine."""
    width: int = 128
    """Of the transformer, of two blocks that see 64 characters."""
    quick: bool = False
    """A few steps of small networks."""

    @property
    def extent(self) -> str:
        """How long a network is trained."""
        return common.counted(self.steps, "step")

    def __post_init__(self) -> None:
        self.check_positive("seeds", "steps", "batch", "width")
        if not 0 < self.density < 1:
            raise ValueError(f"--density is a fraction in (0, 1), got {self.density}")


QUICK = Settings(seeds=1, steps=60, width=32, quick=True)
CONTEXT, BLOCKS, HEADS = 64, 2, 4
PARTS = 20
"""Of the test data, read one after another."""
PART = 100
"""Steps from one line of the log to the next."""


class Task(NamedTuple):
    """What is learned.

    Attributes:
      make: the dense network.
      pattern: of the weights that become sparse.
      draw: from a key and a number, the network's input and its labels.
      test: the same of test data, all.
      name: of the data.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    pattern: str
    draw: Callable[[Array, int], tuple[Array, Array]]
    test: tuple[Array, Array]
    name: str


def digits(settings: Settings) -> Task:
    """Which digit an image shows."""
    images = datasets.mnist(settings.data)
    x, y = jnp.asarray(images.train_x), jnp.asarray(images.train_y)

    def draw(key: Array, number: int) -> tuple[Array, Array]:
        chosen = jax.random.randint(key, (number,), 0, len(x))
        return common.to_float(x[chosen]), y[chosen]

    test = common.to_float(jnp.asarray(images.test_x)), jnp.asarray(images.test_y)
    return Task(networks.LeNet5, ".*/kernel", draw, test, images.name)


def text(settings: Settings) -> Task:
    """Which character comes next."""
    data = datasets.shakespeare(settings.data)
    size = {"width": settings.width, "blocks": BLOCKS, "heads": HEADS, "context": CONTEXT}
    make = lambda rngs: networks.Transformer(data.characters, rngs, **size)

    def draw(key: Array, number: int, source: Array = data.train) -> tuple[Array, Array]:
        read = datasets.stretches(key, source, number, CONTEXT + 1)
        return read[:, :-1], read[:, 1:]

    return Task(make, "blocks/.*/kernel", draw, draw(jax.random.key(0), 1000, data.test), data.name)


TASKS = {"lenet-5": digits, "transformer": text}


def trained(task: Task, settings: Settings, seed: int, run: common.Run) -> nnx.Module:
    """The sparse network, its rules still in place."""
    model = task.make(nnx.Rngs(seed))
    model = jsparse.sparsify(model, (task.pattern, jsparse.Top(density=settings.density)))
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    optimizer = jsparse.Optimizer(model, optax.adam(rate))

    @nnx.jit
    def step(model: nnx.Module, optimizer: jsparse.Optimizer, key: Array) -> Array:
        x, y = task.draw(key, settings.batch)

        def loss(model: Any) -> Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        found, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return found

    run.forget_after(0)
    common.header(run.folder, f"{task.name}, density {settings.density:.0%}", 1, settings.extent)
    progress = common.Epochs(0, -(-settings.steps // PART), f"seed {seed}", f"{PART} steps")
    for part in progress:
        end, loss = min(part * PART, settings.steps), jnp.inf
        for n in range((part - 1) * PART, end):
            loss = step(model, optimizer, jax.random.fold_in(jax.random.key(seed), n))
        common.check_finite(float(loss), end, {}, run)
        run.log(end, loss=float(loss))
        progress.show(loss=loss)
    return model


def forms(model: Any, x: Array) -> dict[str, nnx.Module]:
    """The plain network and its later forms, by stage."""
    plain = jsparse.fold(model)
    for _, layer in walk_modules(plain):
        if isinstance(layer, nnx.Conv):  # the one for training on a CPU cannot be exported
            layer.conv_general_dilated = jax.lax.conv_general_dilated
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pack left")  # printed once, by `main`
        made = {
            "folded": plain,
            "packed, float32": export.pack(plain, export.csr()),
            "packed, int8": export.pack(plain, export.int8(export.csr())),
        }
    if importlib.util.find_spec("qwix"):
        import qwix

        rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")
        made["dense int8, by qwix"] = qwix.quantize_model(plain, qwix.PtqProvider([rule]), x)
    return made


def measured(call: Callable, test: tuple[Array, Array]) -> float:
    """The part of the labels that is right."""
    size = len(test[1]) // PARTS
    right = [
        (call(x).argmax(-1) == y).mean()
        for x, y in ([one[n * size :][:size] for one in test] for n in range(PARTS))
    ]
    return float(sum(right)) / PARTS


def stages(model: nnx.Module, task: Task, folder: Path) -> dict[str, Any]:
    """Bytes of the weights and accuracy of each stage, as saved and loaded."""
    found: dict[str, Any] = {"trained": {"accuracy": measured(jax.jit(model), task.test)}}
    x = task.test[0][: len(task.test[0]) // PARTS]  # some programs take no other number
    made = forms(model, x)
    for name, form in made.items():
        place = folder / name.replace(", ", "-").replace(" ", "-")
        export.save(place, form, x, overwrite=True)
        size = (place / "weights.safetensors").stat().st_size
        found[name] = {"bytes": size, "accuracy": measured(export.load(place), task.test)}
    found["left dense"] = export.left_dense(made["folded"], export.int8(export.csr()))
    return found


def main(settings: Settings) -> None:
    """Train, quantize and measure; print a table for each network."""
    out = Path(settings.out or "runs/quantized")
    tables = []
    for network in settings.networks:
        task = TASKS[network](settings)
        found = []
        for seed in range(1, settings.seeds + 1):
            folder = out / network / str(seed)
            run = common.open_run(
                folder, dataclasses.replace(settings, out=str(out)), trained_on=task.name
            )
            if not run.complete:
                model = trained(task, settings, seed, run)
                model.eval()
                run.finish(**stages(model, task, folder))
            found.append(run.final())
        tables.append(shown(network, task, settings, found))
        print(tables[-1])
    common.show_pages(common.logged(out), out, tables="\n".join(tables))


def shown(network: str, task: Task, settings: Settings, found: list[Mapping[str, Any]]) -> str:
    """A table of the size and accuracy of each stage."""
    dense = found[0]["folded"]["bytes"]
    rows = []
    for name in found[0]:
        if name != "left dense":
            sizes = [each[name].get("bytes", dense) for each in found]
            kib, part = sum(sizes) / len(sizes) / 1024, sum(sizes) / len(sizes) / dense
            accuracy = common.percent([each[name]["accuracy"] for each in found])
            rows.append([name, f"{kib:,.1f}", f"{part:.1%}", accuracy])
    left = "; ".join(f"{path}: {why}" for path, why in found[0]["left dense"].items())
    return (
        f"\n{task.name}, {network}, density {settings.density:.0%}, {settings.extent}:\n\n"
        f"{common.table(['', 'weights [KiB]', 'of dense', 'accuracy [%]'], rows)}\n\n"
        f"left dense: {left or 'none'}"
    )


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
