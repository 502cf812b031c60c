"""Two networks that were trained sparse, as they are served, against their dense twins.

Claim: LeNet-300-100 and LeNet-5, trained with learned thresholds to about 2 % of their weights, are
    as accurate as published beside their dense twins, and take less time than those in ONNX Runtime
    and a small part of their file.
Paper: Liu et al., Dynamic Sparse Training, ICLR 2020, Table 1, for the accuracies.
Command: python -m experiments.bench.trained --rounds 0    (trains, as `dst_mnist` does)
         python -m experiments.bench.trained               (measures what was trained)
         python -m experiments.bench.trained --density 0.05    (both, with more of the weights)
         python -m experiments.bench.trained --quick       (one epoch of LeNet-300-100, one round)
    The other runtimes need `pip install "jsparse[bench]"`.
Minutes: 2 to train LeNet-300-100, one seed, and 20 LeNet-5, with other work; 2 to measure both, on
    two cores that do nothing else.
Number (one core of an AMD EPYC, one seed): LeNet-5 with 4.8 % of its weights, 99.22 % accurate
    (dense 99.25), is 1.7 and 4.2 times as fast as ONNX Runtime at batch 1 and 32, with 5.2 % of the
    bytes.

The dense network is written as ONNX. The sparse one is folded and stored as `jsparse.export.pick`
chooses, and saved: the bytes are those of the saved weights and of the whole folder, which also
holds its program; the accuracy is that of what `jsparse.export.load` returns. Each runs in a
process of its own on one core; they take turns, in seconds of the processor.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsparse
from experiments import common, datasets, dst_mnist, networks
from experiments.bench import runtimes
from experiments.bench.rounds import Load, There, in_turns, made_with, ratio
from experiments.common.train import trained
from jsparse import export

Name = Literal["lenet-300-100", "lenet-5"]
PUBLISHED = {"lenet-300-100": 0.023, "lenet-5": 0.0155}
"""What to steer to for about the published densities at the end."""
DECAY = 0.3
"""Of the run, over which the learning rate falls to 0."""
PART = 1000
"""Test images of a call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """What to train and to measure."""

    networks: tuple[Name, ...] = ("lenet-300-100", "lenet-5")
    density: float | None = None
    """That `TargetDensity` steers to; if None, about the published one of each network."""
    epochs: int = 20
    """Of training."""
    inputs: tuple[int, ...] = (1, 32)
    """Images of a call."""
    rounds: int = 11
    """Samples of each candidate; 0 only trains."""
    quick: bool = False
    """Shows only that it runs."""

    def __post_init__(self) -> None:
        self.check_positive("epochs")
        if self.rounds < 0 or min(self.inputs, default=0) < 1:
            raise ValueError(
                f"--rounds got {self.rounds}, --inputs {self.inputs}; give 0 or more rounds, and "
                "at least one number of inputs, each 1 or more"
            )


def recipe(name: Name, settings: Settings) -> dst_mnist.Settings:
    """How a network is trained: one seed of `dst_mnist`, steered to its density."""
    published = settings.density is None
    density = PUBLISHED[name] if published else settings.density
    return dst_mnist.Settings(
        network=name,
        density=density,
        decay=DECAY,
        epochs=settings.epochs,
        seeds=1,
        data=settings.data,
        out=f"{settings.out or 'runs/trained'}/{name}{'' if published else f'-{density}'}",
    )


def pair(study: dst_mnist.Settings, images: datasets.Images) -> tuple[nnx.Module, nnx.Module]:
    """The dense and the sparse network of a study that is done, the latter folded.

    Of several seeds and alphas, the first ones.
    """
    dense, sparse = dst_mnist.sweeps(study, images)
    out, seeds = Path(study.out), range(study.first_seed, study.first_seed + study.seeds)
    return (
        trained(out / "dense", dense, seeds, [0.0]),
        jsparse.fold(trained(out / "sparse", sparse, seeds, study.alphas)),
    )


def stored(folder: str, name: str) -> Callable[[], Any]:
    """A call of the sparse network saved in a folder, as `pick` stores it; saved as "picked"."""
    x = jnp.asarray(np.load(f"{folder}/x.npy"))
    model = runtimes.convolved(dst_mnist.NETWORKS[name](nnx.Rngs(0)), jax.lax.conv_general_dilated)
    picked = export.pick(export.restore(f"{folder}/sparse", model), x).model
    export.save(f"{folder}/picked", picked, x)
    way = runtimes.fastest(runtimes.convolved(picked, networks.convolution(scanned=False)), x)
    return lambda: jax.block_until_ready(way.call(way.state)[1])


def accuracy(model: Callable[[jax.Array], jax.Array], images: datasets.Images) -> float:
    """On the test images, in percent."""
    size = min(PART, len(images.test_x))
    right = [
        np.asarray(model(images.test_x[n : n + size] / np.float32(255))).argmax(-1)
        == images.test_y[n : n + size]
        for n in range(0, len(images.test_x), size)
    ]
    return 100 * float(np.concatenate(right).mean())


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def measured(
    name: Name,
    pair: tuple[nnx.Module, nnx.Module],
    images: datasets.Images,
    batch: int,
    rounds: int,
    folder: Path,
) -> dict[str, Any]:
    """Milliseconds, bytes and accuracies of both networks.

    Raises:
      AssertionError: what is stored gives other outputs than the sparse network.
    """
    dense, sparse = pair
    x, file = np.float32(images.test_x[:batch]) / 255, folder / "dense.onnx"
    np.save(folder / "x.npy", x)
    with networks.stock_operations():
        runtimes.write(file, runtimes.convolved(dense, jax.lax.conv_general_dilated), x)
    export.save(folder / "sparse", runtimes.convolved(sparse, jax.lax.conv_general_dilated), x)
    with ExitStack() as stack:
        own = stack.enter_context(There(stored, str(folder), name, cores=1))
        expected = float(np.abs(np.asarray(sparse(jnp.asarray(x)))).mean())
        np.testing.assert_allclose(own.loss, expected, rtol=1e-3)
        times = in_turns({"jsparse": own, **runtimes.others(stack, file, 1)[0]}, rounds)
    kernels = [w for path, w in runtimes.weights(sparse).items() if path.endswith("kernel")]
    return {
        "network": name,
        "batch": batch,
        "kept": sum(map(np.count_nonzero, kernels)) / sum(kernel.size for kernel in kernels),
        "dense accuracy": accuracy(lambda x: dense(jnp.asarray(x)), images),
        "accuracy": accuracy(export.load(folder / "picked"), images),
        "ms": {way: 1e3 * float(np.median(found)) for way, found in times.items()},
        "gain": {way: ratio(found, times["jsparse"]) for way, found in times.items()},
        "dense bytes": size(file),
        "weight bytes": size(folder / "picked" / "weights.safetensors"),
        "bytes": size(folder / "picked"),
    }


def row(found: dict[str, Any]) -> list[str]:
    """Of the table."""
    ways = ("ONNX Runtime", "OpenVINO", "jsparse")
    ms = [f"{found['ms'][way]:.3g}" if way in found["ms"] else "-" for way in ways]
    gains = [f"{float(found['gain'][w][0]):.2g}" if w in found["gain"] else "-" for w in ways[:2]]
    small = found["weight bytes"] / found["dense bytes"]
    kib = [f"{found[n] / 1024:,.0f}" for n in ("dense bytes", "weight bytes", "bytes")]
    right = [f"{found[n]:.2f}" for n in ("dense accuracy", "accuracy")]
    first = [found["network"], f"{100 * found['kept']:.2f} %", *right, str(found["batch"])]
    return [*first, *ms, *gains, *kib, f"{100 * small:.1f} %"]


HEAD = ["network", "kept", "dense accuracy", "accuracy", "batch", "ONNX Runtime ms", "OpenVINO ms"]
HEAD += ["jsparse ms", "/ ONNX Runtime", "/ OpenVINO", "ONNX KiB", "weights KiB", "folder KiB"]
HEAD += ["weights of ONNX"]


def main(settings: Settings) -> None:
    """Train what is not trained yet, then measure network by network."""
    if settings.quick:
        short = {"epochs": 1, "inputs": (1,), "rounds": 1, "networks": ("lenet-300-100",)}
        out = f"{settings.out or 'runs/trained'}/quick"
        settings = dataclasses.replace(settings, **short, out=out)
    print(f"{jax.default_backend()}, {os.cpu_count()} cores, {settings.rounds} rounds")
    print(made_with())
    for one, why in runtimes.absent().items():
        print(f"{one} is left out: it {why}")
    images, found, load = datasets.mnist(settings.data), [], Load()
    for name in settings.networks:
        study = recipe(name, settings)
        dst_mnist.main(study)
        for batch in settings.inputs if settings.rounds else ():
            with tempfile.TemporaryDirectory() as folder:
                both = pair(study, images)
                one = measured(name, both, images, batch, settings.rounds, Path(folder))
            found.append(one)
    if found:
        rows = [row(one) for one in found]
        print(f"\none core, ms of processor time; {load}")
        print(common.table(HEAD, rows))
        path = Path(settings.out or "runs/trained") / "trained.json"
        path.write_text(json.dumps({"columns": HEAD, "rows": rows, "found": found}, indent=1))
        print(path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
