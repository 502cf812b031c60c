"""A step and a change of the links, against the code that the authors of SET published.

Claim: a network of the largest size that both hold trains at least 3 times as fast as in the
    authors' SciPy and Numba.
Paper: Curci, Mocanu, Pechenizkiy, Truly sparse neural networks at scale, arXiv 2102.01732, 2021,
    whose code builds on that of Liu et al., Sparse evolutionary deep learning with over one million
    artificial neurons on commodity hardware, Neural Computing and Applications 2021.
Command: python -m experiments.bench.set_scipy --authors FOLDER --python PYTHON
    a checkout of github.com/SelimaC/large-scale-sparse-neural-networks, and a Python with
    numpy<2, scipy, numba and psutil. For 100,008 neurons: --inputs 6554 --width 31148 --rounds 5
    --steps 1
Minutes: 4 for 100,008 neurons; a million had not ended after 7.
Number: at 100,008 neurons on two AMD EPYC cores a step is 3.3 times as fast in processor time.

Both start with the same links and train on the same batch with the same arithmetic: alternated
left ReLU, momentum and weight decay, no dropout. After the first three steps, before any change,
the outputs are compared. Then both take turns, each round with steps and a change of three tenths
of the links. Their values are float64 and ours float32, as in each code. Both use all cores.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax import Array

import jsparse
from experiments import common
from experiments.bench.rounds import Load, Process, clocked, made_with, ratio, turns
from experiments.networks.modules import modules
from jsparse.export import random_csr

SCRIPT = Path(__file__).resolve().with_name("official_set.py")
CLASSES, FIRST = 10, 3
SLOPES = (-0.6, 0.6, -0.6)
"""Of the alternated left ReLU, layer by layer: the authors' example."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    authors: str
    """The checkout of their code."""
    python: str
    """A Python that runs it."""
    inputs: int = 65_536
    width: int = 311_480
    """Of the three hidden layers."""
    links: int = 20
    """Of each hidden unit."""
    batch: int = 128
    rounds: int = 11
    steps: int = 2
    """In each round, before a change."""
    fraction: float = 0.3
    """Of the links, exchanged at each change."""
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0002


class Net(nnx.Module):
    """Three hidden layers of links, and a dense head."""

    def __init__(self, settings: Settings):
        width, key = settings.width, jax.random.key(0)
        ends = zip((settings.inputs, width, width), jax.random.split(key, 3), strict=True)
        links = dict(links=settings.links, scale=2.0)
        self.hidden = modules([random_csr(i, width, key=of, **links) for i, of in ends])
        self.head = nnx.Linear(width, CLASSES, rngs=nnx.Rngs(1))

    def __call__(self, x: Array) -> Array:
        for layer, slope in zip(self.hidden, SLOPES, strict=True):
            x = layer(x)
            x = jnp.where(x < 0, slope * x, x)
        return self.head(x)


@nnx.jit(donate_argnums=(0, 1))
def step(model: nnx.Module, optimizer: nnx.Optimizer, x: Array, y: Array) -> Array:
    """One train step; the loss."""

    def loss(model: Any) -> Array:
        return optax.softmax_cross_entropy(model(x), y).mean()

    found, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return found


def drawn(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """A batch: one of ten centers and as much noise; labels as vectors."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=settings.batch)
    centers, noise = (rng.standard_normal((n, settings.inputs)) for n in (CLASSES, settings.batch))
    x = (centers[labels] + noise) * 0.5**0.5
    return x.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[labels]


def written(settings: Settings, model: Net, x: np.ndarray, y: np.ndarray, file: Path) -> None:
    """The case as their process reads it."""
    case: dict[str, Any] = {"x": x, "y": y, "slopes": SLOPES, "zeta": settings.fraction}
    width = settings.width
    case["sizes"] = (settings.inputs, width, width, width, CLASSES)
    for name in ("learning_rate", "momentum", "weight_decay"):
        case[name] = getattr(settings, name)
    for n, layer in enumerate(model.hidden):
        parts, plan = np.diff(np.asarray(layer.starts[...])), layer.plan
        groups, columns = np.divmod(np.repeat(np.arange(len(parts)), parts), plan.outputs)
        case[f"rows{n}"] = (groups * plan.width + layer.indices[...]).astype(np.int32)
        case[f"columns{n}"] = columns.astype(np.int32)
        case[f"values{n}"] = np.asarray(layer.values[...])
    kernel = np.asarray(model.head.kernel[...])
    last = len(model.hidden)
    case[f"rows{last}"], case[f"columns{last}"] = np.indices(kernel.shape, np.int32).reshape(2, -1)
    case[f"values{last}"] = kernel.ravel()
    np.savez(file, **case)


def trainer(settings: Settings, model: Net) -> nnx.Optimizer:
    """Their arithmetic: w += v - decay w, with v = momentum v - rate g."""
    fraction, every = settings.fraction, settings.steps + 1
    by = jsparse.SET(last=10**9, every=every, first=FIRST + every, fraction=fraction, by_sign=True)
    sgd = optax.sgd(settings.learning_rate, momentum=settings.momentum)
    inner = optax.chain(sgd, optax.add_decayed_weights(-settings.weight_decay))
    return jsparse.PackedOptimizer(model, jsparse.revise(inner, ("hidden/.*/kernel", by)))


def measured(settings: Settings, folder: str) -> dict[str, np.ndarray]:
    """Seconds of ours and theirs: [rounds, step or step with a change, processor or clock].

    Raises:
      AssertionError: outputs differ after the first steps.
    """
    model, case = Net(settings), Path(folder, "case.npz")
    rows, labels = drawn(settings)
    written(settings, model, rows, labels, case)
    optimizer, x, y = trainer(settings, model), jnp.asarray(rows), jnp.asarray(labels)

    def ours() -> np.ndarray:
        _, seconds, used = clocked(lambda: step(model, optimizer, x, y))
        return np.array([used, seconds])

    def sample(one: Callable[[], np.ndarray], change: Callable[[], Any]) -> list[np.ndarray]:
        plain = np.mean([one() for _ in range(settings.steps)], axis=0)
        return [plain, one() + change()]

    authors = str(Path(settings.authors).resolve())
    with Process([settings.python, str(SCRIPT), authors, str(case)], folder) as process:
        theirs = lambda what: np.array(process.ask(what).split(), float)
        for _ in range(FIRST):
            ours()
            theirs("step")
        theirs(f"outputs {folder}/outputs.npy")
        found = np.asarray(nnx.jit(lambda model, x: nnx.softmax(model(x)))(model, x))
        expected = np.load(f"{folder}/outputs.npy")
        apart = np.abs(found - expected).max()
        print(f"largest difference of outputs after {FIRST} steps: {apart:.1e}")
        np.testing.assert_allclose(found, expected, atol=1e-3)
        samples = {
            "ours": lambda: sample(ours, lambda: 0),  # its change is within the step
            "theirs": lambda: sample(lambda: theirs("step"), lambda: theirs("change")),
        }
        return turns(samples, settings.rounds)


def main(settings: Settings) -> None:
    """Measure in turns; a table of seconds and ratios."""
    print(made_with())
    load, neurons = Load(), settings.inputs + 3 * settings.width + CLASSES
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = measured(settings, folder).values()
    rows = []
    for n, what in enumerate(("a step", "a step and a change")):
        for m, clock in enumerate(("processor", "clock")):
            one, other = ours[:, n, m], theirs[:, n, m]
            seconds = [f"{np.median(some):.3g}" for some in (one, other)]
            rows.append([what, clock, *seconds, *ratio(other, one)])
    print(f"{neurons:,} neurons, {settings.links} links a unit, batch {settings.batch}, {load}")
    print(common.table(["", "seconds of the", "ours", "theirs", "ratio", "quartiles"], rows))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
