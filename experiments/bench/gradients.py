"""A packed 3x3 convolution with its gradients, beside PyTorch's dense one, on one core.

Claim: forward pass, gradient for x and gradients for the weights that are kept together take at
    most 1/4 and 1/8 of PyTorch's dense ones with 10 and 5 % of the weights, at batch 32.
Command: python -m experiments.bench.gradients --torch PATH
    PATH is a Python with torch, which need not be ours.
Minutes: 6, on a machine that does nothing else.
Number (one core of an AMD EPYC): with 10 and 5 % of the weights 5.9 and 10.2 times as fast at 512
    channels.

The sizes are those of inner convolutions of VGG-16 and ResNet-20. Weights are kept at random.
Images lie in memory as each side wants them, as they do between layers of its own: with the batch
innermost for the kernels, plane by plane or by channels for PyTorch, whichever is faster. Each side
is a process of its own; they take turns, in seconds of the processor, and give the same numbers.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from experiments import common
from experiments.bench.others import torch_conv
from experiments.bench.rounds import Load, There, in_turns, made_with, ratio
from jsparse import export
from jsparse.export._packing.convolution import BATCH_LAST

PARTS = ("forward", "dx", "dw")
"""What a call computes."""
WIDTHS = {"csr": 0, "csr, no groups": 1 << 16}
"""Formats that `pick` tries for a window."""
THEIRS = ("planes", "channels last")
"""How PyTorch's images lie."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    torch: Path
    """A Python with torch."""
    sizes: tuple[tuple[int, int], ...] = (
        (64, 32),
        (128, 16),
        (256, 8),
        (512, 4),
        (16, 32),
        (32, 16),
        (64, 8),
    )
    """Features, as many outputs, and the side of the images."""
    densities: tuple[float, ...] = (0.1, 0.05)
    """Parts of the weights that are kept."""
    batch: int = 32
    """Images."""
    rounds: int = 11
    """Samples of each candidate."""

    def __post_init__(self) -> None:
        if not all(0 < density < 1 for density in self.densities):
            raise ValueError(f"--densities got {self.densities}; give fractions in (0, 1)")
        if min(self.rounds, self.batch, *(n for size in self.sizes for n in size)) < 1:
            raise ValueError("--rounds, --batch and --sizes are 1 or more")


def write(folder: Path, size: tuple[int, int], batch: int, density: float) -> None:
    """x and dy [batch, side, side, features] and a kernel with zeros, for the processes."""
    (features, side), random = size, np.random.default_rng(0)
    kernel = random.standard_normal((3, 3, features, features), np.float32)
    kept = random.random(kernel.shape) < density
    np.save(folder / "kernel.npy", kernel * kept / np.float32(np.sqrt(9 * features * density)))
    for name in ("x", "dy"):
        images = random.standard_normal((batch, side, side, features), np.float32)
        np.save(folder / f"{name}.npy", images)


def packed(folder: str, name: str) -> Callable[[], Any]:
    """A call of the packed convolution in a format."""
    kernel, x, dy = (np.load(f"{folder}/{one}.npy") for one in ("kernel", "x", "dy"))
    dense = nnx.Conv(*kernel.shape[2:], (3, 3), use_bias=False, rngs=nnx.Rngs(0))
    dense.kernel[...] = jnp.asarray(kernel)
    layer = export.pack(dense, export.csr(WIDTHS[name]))
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

    def call(params: Any, x: Any, dy: Any) -> dict[str, Any]:
        y, back = jax.vjp(lambda params, x: nnx.merge(graphdef, params, rest)(x), params, x)
        dparams, dx = back(dy)
        return {"forward": y, "dx": dx, "dw": dparams["values"][...]}

    place = Format(Layout(BATCH_LAST), SingleDeviceSharding(jax.devices()[0]))
    places = {"forward": place, "dx": place, "dw": None}
    jitted = jax.jit(call, in_shardings=(None, place, place), out_shardings=places)
    given = params, *(jax.device_put(one, place) for one in (x, dy))
    found = jitted(*given)
    layer.values[...] = found["dw"]
    np.savez(f"{folder}/{name}.npz", **found | {"dw": layer.kernel()})
    return lambda: next(iter(jax.block_until_ready(jitted(*given)).values()))


def timed(size: tuple[int, int], density: float, settings: Settings) -> dict[str, np.ndarray]:
    """Seconds of each candidate, [rounds] by name.

    Raises:
      AssertionError: one gives other numbers than PyTorch.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write(Path(folder), size, settings.batch, density)
        start = lambda step, name, python: stack.enter_context(
            There(step, folder, name, cores=1, python=str(python))
        )
        ways = {name: start(torch_conv, name, settings.torch) for name in THEIRS}
        ways |= {name: start(packed, name, sys.executable) for name in WIDTHS}
        compare(Path(folder))
        return in_turns(ways, settings.rounds)


def compare(folder: Path) -> None:
    """All have the same results, as far as weights are kept; raises AssertionError if not."""
    expected, kept = np.load(folder / f"{THEIRS[0]}.npz"), np.load(folder / "kernel.npy") != 0
    for name in WIDTHS:
        found = np.load(folder / f"{name}.npz")
        for part in PARTS:
            wanted = expected[part] * kept if part == "dw" else expected[part]
            small = 1e-4 * float(np.abs(wanted).max())
            np.testing.assert_allclose(found[part], wanted, atol=small, err_msg=f"{name} {part}")


def quickest(times: dict[str, np.ndarray], names: Iterable[str]) -> str:
    """The candidate of these that takes the least time."""
    return min(names, key=lambda name: np.median(times[name]))


def main(settings: Settings) -> None:
    """Measure size by size; prints a table."""
    print(made_with())
    rows, load = [], Load()
    for features, side in settings.sizes:
        for density in settings.densities:
            times = timed((features, side), density, settings)
            dense, ours = quickest(times, THEIRS), quickest(times, WIDTHS)
            ms = [f"{1e3 * np.median(times[name]):.3g}" for name in (dense, ours)]
            gain = ratio(times[dense], times[ours])
            rows.append([f"{features} at {side}x{side}", f"{density:.0%}", *ms, *gain, dense, ours])
            print(*rows[-1], file=sys.stderr, flush=True)
    print(f"\n{', '.join(PARTS)}, batch {settings.batch}, ms of processor time; {load}")
    head = ["features", "kept", "PyTorch", "packed", "times as fast", "quartiles", "its images"]
    print(common.table([*head, "format"], rows), flush=True)


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
