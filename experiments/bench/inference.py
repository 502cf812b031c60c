"""What sparsity gains at inference: single products, and networks against other runtimes.

Claim: on a 4096x4096 matrix at batch 512, layers of kept weights (`Csr`) are at least 3.4, 6.2 and
    13 times as fast as XLA's dense product at 90, 95 and 98 % zeros. There is no claim about
    networks: `runtimes` shows what the best dense runtime takes, and what a sparse network takes.
Command: python -m experiments.bench.inference
         python -m experiments.bench.inference --only networks --torch PATH
    PATH is a Python with torch, which need not be ours; ONNX Runtime and OpenVINO need
    `pip install "jsparse[bench]"`. Without them they are left out. On two cores leave PyTorch to a
    run of its own: beside its process the others took 0.2 to 0.6 ms longer a call.
Minutes: 5 for products and 40 for networks, on two cores that do nothing else.

The mask of a product is random, by weight or by block of 64; x and y are stored by rows, as in
layers. SciPy and PyTorch (MKL) take x already transposed and return y transposed, which is in their
favor; PyTorch, ONNX Runtime and OpenVINO run in their own processes, the last two dense, as are all
three in networks. Ratios are medians over rounds of the ratio within a round.
"""

import dataclasses
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import common
from experiments.bench import runtimes
from experiments.bench.others import torch_csr
from experiments.bench.rounds import Here, Load, There, in_turns, made_with, ratio, usable_cores
from jsparse import export
from jsparse.export._packing.block import plain_dot
from jsparse.export._packing.formats import BlockArrays, CsrArrays, block_matrix, csr_matrix

BLOCK = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    sizes: tuple[tuple[int, int], ...] = ((784, 300), (1024, 1024), (4096, 4096))
    """Inputs and outputs."""
    batches: tuple[int, ...] = (1, 64, 512)
    """Rows of x."""
    densities: tuple[float, ...] = (0.1, 0.05, 0.03, 0.02)
    """Parts of the weights that are kept."""
    rounds: int = 11
    """Samples of each candidate."""
    only: tuple[Literal["products", "networks"], ...] = ("products", "networks")
    """What to measure."""
    networks: tuple[runtimes.Name, ...] = (
        "linear-4096",
        "mlp-1024",
        "transformer-512",
        "vgg-16",
        "lenet-5",
        "resnet-20",
    )
    """Networks to measure."""
    inputs: tuple[int, ...] = (1, 32)
    """Of a network, a call."""
    cores: tuple[int, ...] = (1, 2)
    """That all keep to, for networks."""
    torch: Path | None = None
    """A Python with torch, if it is not this one."""

    def __post_init__(self) -> None:
        there = usable_cores()
        if not all(1 <= cores <= there for cores in self.cores):
            raise ValueError(f"--cores got {self.cores}; give numbers from 1 to {there}")
        if not all(0 < density < 1 for density in self.densities):
            raise ValueError(f"--densities got {self.densities}; give fractions in (0, 1)")
        if min(self.rounds, *self.batches, *self.inputs) < 1:
            raise ValueError("--rounds, --batches and --inputs are 1 or more")

    @property
    def python(self) -> str:
        """The Python with torch; empty if there is none."""
        own = sys.executable if importlib.util.find_spec("torch") else ""
        return str(self.torch or own)


def layers(size: tuple[int, int], density: float) -> dict[str, nnx.Module]:
    """A dense layer with a random mask, the same packed, and one with a mask by block, packed."""
    random = np.random.default_rng(0)
    dense = nnx.Linear(*size, use_bias=False, rngs=nnx.Rngs(0))
    kernel = random.standard_normal(size, np.float32)
    dense.kernel[...] = jnp.asarray(kernel * (random.random(size, np.float32) < density))
    tiled = nnx.clone(dense)
    grid = random.random([-(-side // BLOCK) for side in size]) < density
    kept = np.kron(grid, np.ones((BLOCK, BLOCK), np.float32))[: size[0], : size[1]]
    tiled.kernel[...] = jnp.asarray(kernel * kept)
    return {
        "dense": dense,
        "Csr": export.pack(dense, export.csr()),
        "Csr, no groups": export.pack(dense, export.csr(1 << 16)),
        "BlockSparse": export.pack(tiled, export.blocks((BLOCK, BLOCK))),
    }


def calls(made: dict[str, Any], x: jax.Array) -> dict[str, Callable[[], Any]]:
    """Each way to multiply x, ready to be timed; they are checked against the matrix."""
    found: dict[str, Callable[[], Any]] = {}
    for name, layer in made.items():
        found[name] = _jitted(lambda layer, x: layer(x), layer, x)
    size = made["dense"].kernel.shape
    matrix = lambda layer, x: x @ csr_matrix(_csr(layer), size, layer.width)
    found["Csr, plain JAX"] = _jitted(matrix, made["Csr"], x)
    product = lambda layer, x: plain_dot(_blocks(layer), x, size[1])
    found["BlockSparse, plain JAX"] = _jitted(product, made["BlockSparse"], x)
    dense, blocks = (
        x @ made["dense"].kernel[...],
        x @ block_matrix(_blocks(made["BlockSparse"]), size),
    )
    for name, call in found.items():
        expected = blocks if name.startswith("Block") else dense
        np.testing.assert_allclose(call(), expected, atol=1e-3 * float(abs(expected).max()))
    return found


def _jitted(function: Callable, layer: nnx.Module, x: jax.Array) -> Callable[[], Any]:
    graphdef, state = nnx.split(layer)
    run = jax.jit(lambda state, x: function(nnx.merge(graphdef, state), x))
    return lambda: run(state, x)


def _csr(layer: Any) -> CsrArrays:
    return CsrArrays(layer.values[...], layer.indices[...], layer.starts[...])


def _blocks(layer: Any) -> BlockArrays:
    return BlockArrays(layer.values[...], layer.rows[...], layer.starts[...])


def scipy_call(kernel: np.ndarray, x: np.ndarray) -> Callable[[], Any]:
    """SciPy's product of a CSR matrix [out, in] with x turned."""
    from scipy.sparse import csr_array

    matrix, turned = csr_array(kernel.T), np.ascontiguousarray(x.T)
    return lambda: matrix @ turned


def measure(size: tuple[int, int], batch: int, settings: Settings, folder: Path) -> None:
    """All ways at each density; prints a table."""
    rows, names = [], []
    x = np.random.default_rng(1).standard_normal((batch, size[0]), np.float32)
    load, cores = Load(), usable_cores()
    for density in settings.densities:
        made = layers(size, density)
        ways = calls(made, jnp.asarray(x))
        if importlib.util.find_spec("scipy"):
            ways["SciPy"] = scipy_call(np.asarray(made["dense"].kernel[...]), x)
        candidates: dict[str, Any] = {n: _candidate(call) for n, call in ways.items()}
        with ExitStack() as stack:
            if settings.python:
                case = f"{size[0]} {size[1]} {density} {batch}"
                other = There(torch_csr, "", case, python=settings.python)
                candidates["PyTorch CSR"] = stack.enter_context(other)
            if len(runtimes.absent()) < len(runtimes.OTHERS):
                file = folder / f"{size[0]}-{size[1]}-{batch}.onnx"
                if not file.exists():  # whatever the zeros, dense is dense
                    runtimes.write(file, made["dense"], x)
                candidates |= runtimes.others(stack, file, cores)[0]
            times = in_turns(candidates, settings.rounds)
        names = [name for name in candidates if name != "dense"]
        gains = [f"{float(ratio(times['dense'], times[name])[0]):.2g}" for name in names]
        rows.append([f"{density:.0%}", f"{1e3 * np.median(times['dense']):.3f}", *gains])
    print(f"\n{size[0]}x{size[1]}, batch {batch}: times as fast as dense; {load}")
    print(common.table(["kept", "dense ms", *names], rows), flush=True)


def _candidate(call: Callable[[], Any]) -> Here:
    return Here(lambda state: (state, call()), None)


def main(settings: Settings) -> None:
    """Measure matrix by matrix, then networks."""
    print(f"{jax.default_backend()}, {os.cpu_count()} cores, {settings.rounds} rounds")
    print(made_with())
    for name, why in runtimes.absent().items():
        print(f"{name} is left out: it {why}")
    with tempfile.TemporaryDirectory() as folder:
        for size in settings.sizes if "products" in settings.only else ():
            for batch in settings.batches:
                measure(size, batch, settings, Path(folder))
        for cores in settings.cores if "networks" in settings.only else ():
            for batch in settings.inputs:
                how = settings.densities, settings.rounds, Path(folder), settings.python
                runtimes.compare(settings.networks, batch, runtimes.Setup(cores, *how))


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
