"""What products with kept blocks gain on an accelerator, against the dense one in bfloat16.

Claim: none yet; the Pallas kernels have not been measured on a GPU or TPU.
Command: python -m experiments.bench.blocks            (a GPU or TPU)
         python -m experiments.bench.blocks --mosaic   (Hopper: the form without Triton)
         python -m experiments.bench.blocks --quick    (two cores: the C++ kernel, in float32)

Blocks are kept at random, whole. The ideal is one over the part that is kept. Ratios are medians
over rounds of the ratio within a round; rates count only what is kept.
"""

import dataclasses
import os
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from experiments import common
from experiments.bench.rounds import Here, Load, in_turns, made_with, ratio
from jsparse import export
from jsparse.export import pallas_dot
from jsparse.export._packing.mosaic import mosaic_dot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    sizes: tuple[int, ...] = (4096, 8192, 16384)
    """Inputs, and as many outputs."""
    blocks: tuple[int, ...] = (64, 128)
    """Both sides of a block."""
    densities: tuple[float, ...] = (0.2, 0.1, 0.05)
    """Parts of the blocks that are kept."""
    batch: int = 4096
    """Rows of x."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of x and the weights; sums are in float32."""
    rounds: int = 9
    """Samples of each candidate."""
    mosaic: bool = False
    """The kernel in Mosaic GPU, in place of what `pallas_dot` chooses; for Hopper, in bfloat16."""
    quick: bool = False
    """A size that a CPU can do."""

    def __post_init__(self) -> None:
        for size in self.sizes:
            for block in self.blocks:
                if size % block:
                    raise ValueError(f"--sizes got {size}; give a multiple of --blocks {block}")
        if self.mosaic and self.dtype != "bfloat16":
            raise ValueError(f"--mosaic is for bfloat16, got --dtype {self.dtype}")
        if not all(0 < density <= 1 for density in self.densities):
            raise ValueError(f"--densities got {self.densities}; give fractions in (0, 1]")


QUICK = Settings(sizes=(1024,), batch=512, dtype="float32", quick=True)


def tiled(size: int, block: int, density: float, dtype: str) -> nnx.Linear:
    """A dense layer of which a part of the blocks is kept."""
    random = np.random.default_rng(0)
    side = size // block
    number = max(1, round(density * side**2))
    kept = random.permutation(side**2).reshape(side, side) < number
    kernel = random.standard_normal((size, size), np.float32) / np.sqrt(density * size)
    layer = nnx.Linear(size, size, use_bias=False, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(kernel * np.kron(kept, np.ones((block, block))), dtype)
    return layer


def call(layer: nnx.Module, x: Array) -> Here:
    """A layer, compiled, ready to be timed."""
    graphdef, state = nnx.split(layer)
    jitted = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    return Here(lambda state: (state, jitted(state, x)), state)


def check(dense: nnx.Module, packed: nnx.Module, x: Array) -> None:
    """Both give the same, to the rounding of the dtype."""
    expected, found = (np.asarray(layer(x[:64]), np.float32) for layer in (dense, packed))
    scale = 8 * float(jnp.finfo(x.dtype).eps) * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=scale)


def measure(size: int, settings: Settings) -> None:
    """All blocks and densities of a size; prints a table."""
    x = np.random.default_rng(1).standard_normal((settings.batch, size), np.float32)
    given, rows, load = jnp.asarray(x, settings.dtype), [], Load()
    product = mosaic_dot if settings.mosaic else pallas_dot
    for block in settings.blocks:
        for density in settings.densities:
            dense = tiled(size, block, density, settings.dtype)
            packed = export.pack(dense, export.blocks((block, block), product=product))
            check(dense, packed, given)
            both = {"dense": call(dense, given), "packed": call(packed, given)}
            times = in_turns(both, settings.rounds)
            gain, spread = ratio(times["dense"], times["packed"])
            seconds = {name: float(np.median(times[name])) for name in both}
            kept = packed.values.size / size**2
            dense_work = 2e-12 * settings.batch * size**2
            work = {"dense": dense_work, "packed": kept * dense_work}
            rate = {name: f"{work[name] / taken:.3g}" for name, taken in seconds.items()}
            shown = [str(block), f"{kept:.1%}", f"{1e3 * seconds['dense']:.3f}", rate["dense"]]
            rows.append([*shown, gain, spread, f"{float(gain) * kept:.2f}", rate["packed"]])
    head = ["block", "kept", "dense ms", "dense TFLOP/s", "times as fast", "quartiles"]
    print(f"\n{size}x{size}, batch {settings.batch}, {settings.dtype}; {load}")
    print(common.table([*head, "of the ideal", "TFLOP/s of what is kept"], rows), flush=True)


def main(settings: Settings) -> None:
    """Measure size by size."""
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores")
    print(made_with())
    for size in settings.sizes:
        measure(size, settings)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
