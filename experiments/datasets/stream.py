"""Batches of images for training and testing: read ahead, shared out to processes, resumable.

The order is one for all processes: a seed reshuffles the records each epoch, batch number k of the
run has the same images, cropped the same way, on 1 process and on 100, and each process reads its
own part of it. So the number of batches done fixes the position, and a run may continue with a
different number of processes, threads or workers. (Grain's own position counts within each worker.)

Throughout, `batch` counts the images of all processes together, `side` is that of the images in
pixels, and `shard` says which process this is.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.datasets.imagenet import Record, Source
from experiments.datasets.sources import DataError, extra

TEST_PART = 224 / 256
"""Side of the square that is tested on, of the shorter side."""


class Batch(NamedTuple):
    """This process's part of a batch."""

    images: np.ndarray
    """uint8 `[n, side, side, 3]`."""
    labels: np.ndarray
    """int32 `[n]`, -1 where a test batch is filled up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Which process this is, from 0, and how many there are."""

    index: int = dataclasses.field(default_factory=jax.process_index)
    count: int = dataclasses.field(default_factory=jax.process_count)

    def part(self, batch: int) -> int:
        """How many images of a batch are this process's; a ValueError if it cannot be split."""
        if batch < 1 or batch % self.count:
            raise ValueError(
                f"a batch of {batch} cannot be shared out to {self.count} processes; give a "
                "multiple of it"
            )
        return batch // self.count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Readers:
    """How a process reads ahead; none of it changes what is read.

    Args:
        workers: Further Python processes; 0 to read in threads of this one alone. Threads keep up
          to about ten cores busy, since decoding a JPEG releases Python's lock and little else
          does.
        threads: In each worker, or in this process; each makes whole batches.
        ahead: Batches kept ready, by each worker too.
    """

    workers: int = 0
    threads: int = 8
    ahead: int = 4

    def __post_init__(self) -> None:
        if self.workers < 0 or self.threads < 1 or self.ahead < 1:
            raise ValueError(f"workers are 0 or more, threads and ahead 1 or more; got {self}")


class Stream(Iterator[Batch], contextlib.AbstractContextManager):
    """Batches without end; a position is the number of batches handed out.

    Args:
        read: Batches from a position on.
        records: In an epoch.
        batch: Images of all processes together.
        seed: Of the order.
    """

    def __init__(
        self, read: Callable[[int], Iterator[Batch]], *, records: int, batch: int, seed: int
    ):
        if batch > records:
            raise ValueError(f"a batch of {batch} is larger than the {records} training images")
        self._read, self._batches, self._step = read, None, 0
        self._order = {"records": records, "batch": batch, "seed": seed}

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._read(self._step)
        batch = Batch(*next(self._batches))
        self._step += 1
        return batch

    def __exit__(self, *_: Any) -> None:
        self.close()

    def get_state(self) -> dict[str, int]:
        """The position and what it is a position in, as plain integers."""
        return {"step": self._step, **self._order}

    def set_state(self, state: dict[str, int]) -> None:
        """Go to a position; refuse one with different data, batch or seed."""
        other = {name: state.get(name) for name in self._order}
        if other != self._order or state.get("step", -1) < 0:
            raise ValueError(
                f"the position {state} is not one of this stream, {self.get_state()}; continue "
                "with the data, batch and seed that the run began with"
            )
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stop reading ahead."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def training(
    source: Source, *, batch: int, side: int, seed: int, shard: Shard, readers: Readers
) -> Stream:
    """Random crops of shuffled records, batch after batch; the last incomplete batch is left out.

    Crops as in GoogLeNet: 8 to 100 % of the image's area, sides 3:4 to 4:3, made square; then
    flipped left-right half of the time.

    Reference: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
    """
    part, whole = shard.part(batch), len(source) // batch * batch
    # the seeds of crops count records before the processes' parts are taken
    made = _grain().MapDataset.source(source).seed(seed).shuffle()[:whole]
    made = made.random_map(partial(_training_image, side=side))
    made = made[shard.index :: shard.count].batch(part).repeat()
    read = lambda step: _read_ahead(made[step:], readers)
    return Stream(read, records=len(source), batch=batch, seed=seed)


def in_order(
    source: Source, *, batch: int, side: int, shard: Shard, readers: Readers
) -> Iterator[Batch]:
    """Each record once, cropped to its center; the last batch is padded with the label -1.

    The crop is the square of 224 / 256 of the shorter side, scaled in one step. All processes get
    the same number of batches.
    """
    total = -(-len(source) // batch) * batch
    numbers = _grain().MapDataset.range(total)[shard.index :: shard.count]
    made = numbers.map(partial(_testing_image, source=source, side=side)).batch(shard.part(batch))
    with contextlib.closing(_read_ahead(made, readers)) as batches:
        for some in batches:
            yield Batch(*some)


def synthetic(
    *, batch: int, side: int, classes: int, seed: int, shard: Shard, batches: int, first: int = 0
) -> Stream:
    """Made-up images in the same shape, from memory, so a speed run does not wait for a disk.

    Each class has its own coarse pattern, partly hidden by noise, so a network can learn. The
    images of a few batches are made once and repeat.

    Args:
        batches: How many are made.
        first: Number of the first image; further ones have other noise, such as those to test on.
    """
    shard.part(batch)
    patterns = np.random.default_rng([seed, 0]).integers(0, 256, (classes, 4, 4, 3))
    numbers = np.arange(first, first + batch * batches).reshape(batches, batch)
    made = [_made_up(some[shard.index :: shard.count], patterns, side, seed) for some in numbers]

    def read(step: int) -> Iterator[Batch]:
        while True:
            yield made[step % batches]
            step += 1

    return Stream(read, records=batch * batches, batch=batch, seed=seed)


def _made_up(numbers: np.ndarray, patterns: np.ndarray, side: int, seed: int) -> Batch:
    labels = (numbers * 7919 % len(patterns)).astype(np.int32)
    cells = np.arange(side) * 4 // side
    images = np.empty((len(numbers), side, side, 3), np.uint8)
    for image, number, label in zip(images, numbers, labels, strict=True):
        noise = np.random.default_rng([seed, 1, number]).integers(0, 128, (side, side, 3))
        image[...] = patterns[label][np.ix_(cells, cells)] // 2 + noise
    return Batch(images, labels)


def decode(record: Record) -> Any:
    """The image of a record in RGB, of Pillow; a DataError if it cannot be decoded."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(record.image)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{record.name} holds no good image ({len(record.image)} bytes, {error}); fetch it "
            "again or take it out"
        ) from error


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop; after ten tries that do not fit, the center."""
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return int(left), int(top), int(left) + w, int(top) + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def center_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square that is tested on."""
    half = min(width, height) * TEST_PART / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def _training_image(record: Record, rng: np.random.Generator, *, side: int) -> Batch:
    image = decode(record)
    pixels = _scaled(image, random_box(*image.size, rng), side)
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    return Batch(pixels, np.int32(record.label))


def _testing_image(number: int, *, source: Source, side: int) -> Batch:
    if number >= len(source):
        return Batch(np.zeros((side, side, 3), np.uint8), np.int32(-1))
    record = source[number]
    image = decode(record)
    return Batch(_scaled(image, center_box(*image.size), side), np.int32(record.label))


def _scaled(image: Any, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))


def _grain() -> Any:
    grain, flags, _ = map(extra, ("grain", "absl.flags", "PIL.Image"))
    if not flags.FLAGS.is_parsed():  # grain's workers read flags that only an absl app parses
        flags.FLAGS.mark_as_parsed()
    return grain


def _read_ahead(batches: Any, readers: Readers) -> Any:
    grain = _grain()
    options = grain.ReadOptions(num_threads=readers.threads, prefetch_buffer_size=readers.ahead)
    made = batches.to_iter_dataset(options)
    if readers.workers:
        made = made.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=readers.workers, per_worker_buffer_size=readers.ahead
            )
        )
    return iter(made)
