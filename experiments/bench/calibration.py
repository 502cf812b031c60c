"""What Wanda and SparseGPT cost by depth, against the forward pass and the authors' PyTorch code.

Claim: time grows linearly with depth; a sweep without the pruning itself takes at most 4 forward
    passes over the calibration data; 24 blocks of width 512 take at most 1.5 times as long as the
    authors' code on the same weights and data, with the same masks except for ties within rounding.
Command: python -m experiments.bench.calibration [--authors FOLDER]
    with a checkout of github.com/locuslab/wanda (needs torch).
Minutes: 15 on two otherwise idle cores.

Transformer blocks of 6 matrices, half of each pruned; block by block as the authors do, and weight
by weight. Each is timed from the start, tracing and compiling included; the forward pass is the
plain model's, compiled before. All take turns, the authors' code in its own process. Ratios are of
processor seconds, all threads, which other work on the machine disturbs less than the clock.
"""

import dataclasses
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import jsparse
from experiments import common
from experiments.bench.pruners import HEADS, LAYERS
from experiments.bench.rounds import Load, answer, clocked, made_with
from experiments.networks.modules import modules
from jsparse._pure import call
from jsparse.prune._calibration import prune_in_order

BLOCKS = "blocks/[0-9]+"
Method = Literal["wanda", "sparsegpt"]
METHODS = {"wanda": jsparse.prune.wanda, "sparsegpt": jsparse.prune.sparsegpt}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    depths: tuple[int, ...] = (6, 12, 24)
    """Blocks."""
    width: int = 512
    """Of a block; its hidden layer is four times as wide."""
    sequences: int = 16
    """Of the calibration data."""
    tokens: int = 128
    """Of each."""
    batch: int = 4
    """Sequences that jsparse runs at once; the authors' code runs one."""
    methods: tuple[Method, ...] = ("wanda", "sparsegpt")
    """What to measure beside the sweep."""
    rounds: int = 3
    """Runs of each."""
    authors: str = ""
    """Checkout of github.com/locuslab/wanda."""

    def __post_init__(self) -> None:
        for name in ("width", "sequences", "tokens", "batch", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} got {getattr(self, name)}; give 1 or more")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"--depths got {self.depths}; give one or more of at least 1")
        if self.width % HEADS:
            raise ValueError(f"--width got {self.width}; give a multiple of {HEADS}, the heads")
        if self.sequences % self.batch:
            raise ValueError(
                f"--sequences got {self.sequences}, --batch {self.batch}; give a multiple of the "
                "batch"
            )


def norm(x: Array) -> Array:
    """To mean 0 and variance 1, without parameters."""
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


class Block(nnx.Module):
    """A transformer block, with weights in PyTorch's layout."""

    def __init__(self, weights: dict[str, np.ndarray], n: int, rngs: nnx.Rngs):
        for name in LAYERS:
            kernel = weights[f"{n}/{name}"].T
            init = lambda key, shape, dtype, kernel=kernel: jnp.asarray(kernel)
            shape = kernel.shape
            setattr(self, name, nnx.Linear(*shape, use_bias=False, kernel_init=init, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        apart = lambda x: x.reshape(*x.shape[:-1], HEADS, -1).swapaxes(1, 2)
        h = norm(x)
        q, k, v = (apart(layer(h)) for layer in (self.q, self.k, self.v))
        scores = nnx.softmax(q @ k.mT / q.shape[-1] ** 0.5)
        x = x + self.o((scores @ v).swapaxes(1, 2).reshape(x.shape))
        return x + self.down(nnx.relu(self.up(norm(x))))


class Transformer(nnx.Module):
    """Blocks one after the other."""

    def __init__(self, weights: dict[str, np.ndarray], rngs: nnx.Rngs):
        depth = sum(name.endswith("/q") for name in weights)
        self.blocks = modules([Block(weights, n, rngs) for n in range(depth)])

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x


def draw(settings: Settings, depth: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Inputs [sequences, tokens, width], channels of unequal size, and weights."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    d = settings.width
    inputs = normal(settings.sequences, settings.tokens, d) * np.exp(normal(d))
    shapes = dict.fromkeys(LAYERS, (d, d)) | {"up": (4 * d, d), "down": (d, 4 * d)}
    weights = {
        f"{n}/{name}": normal(*shape) / np.float32(shape[1] ** 0.5)
        for n in range(depth)
        for name, shape in shapes.items()
    }
    return inputs, weights


def theirs(settings: Settings, folder: Path, method: str) -> tuple[dict, float, float]:
    """The authors' new weights, and seconds as in `clocked`."""
    file = folder / f"{method}.npz"
    there = str(Path(settings.authors).resolve())
    script = [sys.executable, "-m", "experiments.bench.pruners"]
    seconds, used = map(float, answer([*script, there, folder / "case.npz", file, method]).split())
    return dict(np.load(file)), seconds, used


def measure(settings: Settings, depth: int) -> None:
    """All contenders in turns; prints a table of medians over rounds."""
    inputs, weights = draw(settings, depth)
    model = Transformer(weights, nnx.Rngs(0))
    sparse = jsparse.sparsify(model, (".*/kernel", jsparse.Held()))
    steps = len(inputs) // settings.batch
    batches = [jnp.asarray(part) for part in np.array_split(inputs, steps)]
    forward = nnx.jit(lambda model, x: model(x))
    jax.block_until_ready(forward(model, batches[0]))
    same = lambda path, part, seen: (part.weight[...], part.mask[...])
    squares = lambda x: (x**2).sum(0)
    work = {
        "forward pass": lambda: [forward(model, x) for x in batches],
        "sweep": lambda: nnx.state(prune_in_order(sparse, batches, call, squares, same)),
    }
    for name in settings.methods:
        way = METHODS[name]
        for label, together in (("weight by weight", ".*"), ("block by block", BLOCKS)):
            run = lambda way=way, together=together: nnx.state(
                way(sparse, batches, density=0.5, together=together)
            )
            work[f"{name}, {label}"] = run
    times: dict[str, list[tuple[float, float]]] = {}
    found: dict[str, Any] = {}
    load = Load()
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "case.npz", inputs=inputs, **weights)
        for _ in range(settings.rounds):
            for name, job in work.items():
                found[name], *taken = clocked(job)
                times.setdefault(name, []).append(tuple(taken))
            for name in settings.methods if settings.authors else ():
                label = f"{name}, the authors' code"
                found[label], *taken = theirs(settings, Path(folder), name)
                times.setdefault(label, []).append(tuple(taken))
    rows = []
    middle = {name: np.median(np.array(taken), axis=0) for name, taken in times.items()}
    for name, (seconds, used) in middle.items():
        rival = middle.get(f"{name.partition(',')[0]}, the authors' code")
        beside = f"{used / rival[1]:.2f}" if rival is not None else ""
        passes = f"{used / middle['forward pass'][1]:.2f}"
        rows.append([name, f"{seconds:.2f}", f"{used:.2f}", passes, beside])
    print(f"\n{depth} blocks of width {settings.width}, {inputs[..., 0].size} tokens; {load}")
    print(common.table(["", "s", "processor s", "/ forward", "/ authors"], rows), flush=True)
    for name in settings.methods if settings.authors else ():
        ours = found[f"{name}, block by block"]
        print(_agreement(name, ours, found[f"{name}, the authors' code"]), flush=True)


def _agreement(name: str, ours: Any, their: dict[str, np.ndarray]) -> str:
    """How far the masks agree; one tie broken differently changes all that follows a little."""
    apart: dict[int, int] = {}
    for path, weight in their.items():
        n, layer = path.split("/")
        mask = np.asarray(ours["blocks"][int(n)][layer]["kernel"]["mask"].get_value()).T
        apart[int(n)] = apart.get(int(n), 0) + int(((weight != 0) != mask).sum())
    total = sum(weight.size for weight in their.values())
    equal = next((n for n, count in sorted(apart.items()) if count), len(apart))
    return (
        f"{name}: masks differ from the authors' in {sum(apart.values())} of {total:,} weights; "
        f"in none of the first {equal} blocks"
    )


def main(settings: Settings) -> None:
    """Measure depth by depth."""
    if settings.authors and not importlib.util.find_spec("torch"):
        raise SystemExit("the authors' code needs torch; pip install torch, or leave out --authors")
    print(made_with())
    for depth in settings.depths:
        measure(settings, depth)
        jax.clear_caches()


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
