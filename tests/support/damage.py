"""Random structures of packed layers, whole and damaged; a program that runs kernels on them."""

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jsparse.export._packing import compiled
from jsparse.export._packing.formats import MOST_INT8, block_arrays, csr_arrays
from jsparse.export._packing.structure import (
    BlockInt8Sizes,
    BlockSizes,
    CsrInt8Sizes,
    CsrSizes,
    Sizes,
)

SANITIZED = ("-std=c++17", "-O1", "-g", "-fno-exceptions", "-pthread", "-w")
SANITIZED += ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
KINDS = (CsrSizes, BlockSizes, CsrInt8Sizes, BlockInt8Sizes)  # as kernels.cc numbers them
WRONG = [-(2**31), -1, 0, 1, 3, 255, 65535, 65536, 2**20, 2**31 - 1]


class Structure(NamedTuple):
    """What a kernel is told of a matrix: `places` are indices or rows, `starts` may be counts."""

    sizes: Sizes
    places: np.ndarray
    starts: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        kind = KINDS.index(type(self.sizes))
        of_int8, of_blocks = kind > 1, kind % 2 == 1
        sides = self.sizes[3:] if of_blocks else ()
        arrays = {
            "values": np.zeros((self.sizes.kept, *sides), np.int8 if of_int8 else np.float32),
            "rows" if of_blocks else "indices": self.places,
            "counts" if of_int8 and not of_blocks else "starts": self.starts,
        }
        return arrays | ({"scale": np.ones(self.sizes.outputs, np.float32)} if of_int8 else {})

    def fault(self) -> str:
        """What our check says; empty if the structure passes."""
        try:
            self.sizes.check_arrays(self.arrays())
        except ValueError as error:
            return str(error)
        return ""

    def words(self, batch: int, lanes: int) -> np.ndarray:
        """The structure as the program in kernels.cc reads it."""
        inputs, outputs, kept, *more = (size for size in self.sizes if size != ())
        head = [KINDS.index(type(self.sizes)), batch, inputs, outputs, lanes, kept, *more]
        parts = [[self.places.size], self.places, [self.starts.size], self.starts]
        return np.concatenate([np.asarray(part, np.int64) for part in (head, *parts)])


def structure(choice: random.Random) -> Structure:
    """That of a random matrix, with empty inputs and outputs."""
    inputs, outputs = choice.randint(1, 90), choice.randint(1, 60)
    drawn = np.random.default_rng(choice.randrange(2**32))
    kernel = drawn.random((inputs, outputs)) * (drawn.random((inputs, outputs)) < choice.random())
    kernel[drawn.random(inputs) < 0.1] = 0.0
    values, of_int8 = kernel.astype(np.float32), choice.random() < 0.5
    if choice.random() < 0.5:
        width = choice.randint(1, min(inputs, MOST_INT8))
        arrays = csr_arrays(values, width)
        sizes = (inputs, outputs, len(arrays.values), width)
        places, starts = np.asarray(arrays.indices), np.asarray(arrays.starts)
        if not of_int8:
            return Structure(CsrSizes(*sizes), places, starts)
        counts = np.diff(starts).astype(np.uint8)
        return Structure(CsrInt8Sizes(*sizes), places.astype(np.uint8), counts)
    block = choice.randint(1, inputs + 9), choice.randint(1, outputs + 9)
    arrays = block_arrays(values, block)
    kind = BlockInt8Sizes if of_int8 else BlockSizes
    sizes = kind(inputs, outputs, len(arrays.values), *block)
    return Structure(sizes, np.asarray(arrays.rows), np.asarray(arrays.starts))


def damaged(given: Structure, choice: random.Random) -> Structure:
    """One array or size changed at random."""
    name = choice.choice(["places", "places", "starts", "starts", "sizes"])
    if name == "sizes":
        which = choice.choice([name for name in given.sizes._fields if name != "stack"])
        size = max(0, getattr(given.sizes, which) + choice.choice([-9, -1, 1, 2, 9]))
        return given._replace(sizes=given.sizes._replace(**{which: size}))
    array = getattr(given, name)
    kind = choice.random()
    if kind < 0.2 or not array.size:
        return given._replace(
            **{name: np.resize(array, max(0, array.size + choice.choice([-1, 1, 5])))}
        )
    array = array.copy()
    for _ in range(choice.randint(1, 3)):
        near = [int(array.flat[choice.randrange(array.size)]), array.size]
        wrong = choice.choice([*WRONG, *near])
        array[choice.randrange(array.size)] = np.asarray(wrong).astype(array.dtype)
    return given._replace(**{name: array})


def build(folder: Path) -> Path:
    """The program in kernels.cc, compiled with sanitizers."""
    program, source = folder / "kernels", Path(__file__).with_name("kernels.cc")
    include = ["-isystem", jax.ffi.include_dir(), "-I", str(compiled.SOURCES)]
    command = [compiled.find_compiler(), *SANITIZED, *include, str(source), "-o", str(program)]
    subprocess.run(command, check=True, timeout=600)
    return program


def run(program: Path, words: Sequence[np.ndarray]) -> list[str]:
    """What the program says of each structure; an error of a sanitizer is one here."""
    content = np.concatenate(words).tobytes()
    done = subprocess.run([str(program)], input=content, capture_output=True, timeout=600)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()[-3000:]
    return done.stdout.decode().split()
