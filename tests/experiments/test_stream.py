"""Streams of batches of images: their order, positions, crops, and damage."""

import io

import numpy as np
import pytest

pytest.importorskip("tyro", reason="the experiments need their extra packages")
pytest.importorskip("grain", reason="reading ImageNet needs the extra packages of `imagenet`")
pytest.importorskip("PIL")

from PIL import Image

from experiments.datasets import stream
from experiments.datasets.imagenet import Record
from experiments.datasets.sources import DataError
from experiments.datasets.stream import Readers, Shard, Stream, decode, in_order
from tests.support.imagenet_files import ONE, THREADS, jpeg


class Numbered:
    """Twenty-three records whose color tells their number."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, n: int) -> Record:
        return Record(f"record {n}", jpeg((10 * n, 0, 0), 0, size=(16, 12)), n)


def training(shard=ONE, seed=3, readers=THREADS, batch=4) -> Stream:
    return stream.training(Numbered(), batch=batch, side=8, seed=seed, shard=shard, readers=readers)


def take(made, count: int) -> list:
    with made:
        return [next(made) for _ in range(count)]


def as_set(*parts) -> list:
    return sorted(
        (int(label), image.tobytes())
        for part in parts
        for image, label in zip(part.images, part.labels, strict=True)
    )


def test_an_epoch_has_each_image_once_in_an_order_of_its_own():
    batches = take(training(), 15)
    labels = [
        [n for batch in batches[k : k + 5] for n in batch.labels.tolist()] for k in (0, 5, 10)
    ]
    assert all(len(set(epoch)) == 20 for epoch in labels)
    assert labels[0] != labels[1] != labels[2]
    assert set(labels[0] + labels[1] + labels[2]) == set(range(23))  # others are left out each time
    for batch in batches:
        assert batch.images.shape == (4, 8, 8, 3) and batch.images.dtype == np.uint8
        assert batch.labels.dtype == np.int32
    first = as_set(*batches)
    assert first == as_set(*take(training(), 15)) != as_set(*take(training(seed=4), 15))


def test_processes_share_out_the_same_batches():
    whole = take(training(), 7)
    parts = [take(training(Shard(index=index, count=2)), 7) for index in range(2)]
    for batch, one, two in zip(whole, *parts, strict=True):
        assert len(one.labels) == len(two.labels) == 2
        assert as_set(one, two) == as_set(batch)


@pytest.mark.parametrize("kind", ["real", "synthetic"])
def test_a_stream_goes_on_from_a_saved_position(kind):
    make = training if kind == "real" else synthetic
    whole = take(make(), 9)
    with make() as begun:
        for _ in range(4):
            next(begun)
        state = begun.get_state()
        assert state["step"] == 4 and all(isinstance(value, int) for value in state.values())
    with make() as later:
        next(later)  # what was read ahead is dropped
        later.set_state(state)
        for batch in whole[4:]:
            assert as_set(next(later)) == as_set(batch)
        with pytest.raises(ValueError, match=r"is not one of this stream"):
            later.set_state({**state, "seed": 99})


@pytest.mark.slow
def test_workers_read_the_same_batches():
    whole = take(training(), 8)
    readers = Readers(workers=2, threads=1, ahead=1)
    made = training(readers=readers)
    made.set_state({**made.get_state(), "step": 3})
    assert list(map(as_set, take(made, 5))) == list(map(as_set, whole[3:]))
    bad = stream.training(Torn(), batch=2, side=8, seed=0, shard=ONE, readers=readers)
    with bad, pytest.raises(Exception, match="record 3 holds no good image"):
        for _ in range(2):
            next(bad)


@pytest.mark.parametrize("count", [1, 2])
def test_each_image_is_tested_once(count):
    labels = []
    for index in range(count):
        shard = Shard(index=index, count=count)
        batches = list(in_order(Numbered(), batch=8, side=8, shard=shard, readers=THREADS))
        assert [batch.images.shape for batch in batches] == 3 * [(8 // count, 8, 8, 3)]
        labels += [n for batch in batches for n in batch.labels.tolist()]
        for batch in batches:
            red = batch.images[:, 4:, 4:, 0].mean(axis=(1, 2))
            np.testing.assert_allclose(red, np.maximum(10.0 * batch.labels, 0), atol=6)
    assert sorted(labels) == [-1, *range(23)]


class Torn(Numbered):
    """Record 3 is cut in half."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, n: int) -> Record:
        record = super().__getitem__(n)
        return record._replace(image=record.image[:200]) if n == 3 else record


def test_a_torn_image_is_named():
    with pytest.raises(DataError, match=r"record 3 holds no good image \(200 bytes, .*take it out"):
        decode(Torn()[3])
    made = stream.training(Torn(), batch=2, side=8, seed=0, shard=ONE, readers=THREADS)
    with made, pytest.raises(DataError, match="record 3 holds no good image"):
        for _ in range(2):
            next(made)


@pytest.mark.parametrize(
    ("mode", "format"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG")]
)
def test_images_of_other_kinds_become_rgb(mode, format):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (90, 90, 90)).convert(mode).save(buffer, format)
    image = decode(Record("x", buffer.getvalue(), 0))
    assert image.mode == "RGB" and image.size == (5, 4)
    np.testing.assert_allclose(np.asarray(image).mean(), 90, atol=3)


def test_crops_are_of_the_area_and_sides_they_should_be():
    random = np.random.default_rng(0)
    boxes = np.array([stream.random_box(500, 375, random) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 500 and bottom.max() <= 375
    area = (right - left) * (bottom - top) / (500 * 375)
    ratio = (right - left) / (bottom - top)
    assert 0.075 < area.min() < 0.09 and area.max() > 0.8
    assert 0.73 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.37
    assert abs(np.median(np.log(ratio))) < 0.05
    assert stream.random_box(1000, 10, random) == (493, 0, 506, 10)  # none of ten tries fits
    np.testing.assert_allclose(stream.center_box(512, 256), (144, 16, 368, 240))


def test_a_picture_is_flipped_half_of_the_time():
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:, 8:] = 255
    buffer = io.BytesIO()
    Image.fromarray(halves).save(buffer, "PNG")
    record, random = Record("x", buffer.getvalue(), 0), np.random.default_rng(0)
    images = [stream._training_image(record, random, side=4).images for _ in range(400)]
    tilts = [int(image[0, 0, 0]) - int(image[0, -1, 0]) for image in images]
    tilts = np.sign([tilt for tilt in tilts if tilt])  # some crops see one half alone
    assert len(tilts) > 150 and abs(tilts.mean()) < 5 / len(tilts) ** 0.5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: training(batch=24), "a batch of 24 is larger than the 23 training images"),
        (lambda: training(Shard(index=0, count=3)), "4 cannot be shared out to 3 processes"),
        (lambda: Readers(threads=0), "workers are 0 or more, threads and ahead 1 or more"),
    ],
)
def test_what_cannot_be_read_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def synthetic(shard=ONE, **changed) -> Stream:
    options = {"batch": 4, "side": 8, "classes": 3, "seed": 1, "batches": 3}
    return stream.synthetic(shard=shard, **{**options, **changed})


def test_made_up_images_have_the_shape_of_real_ones():
    batches = take(synthetic(), 4)
    assert batches[0].images.shape == (4, 8, 8, 3) and batches[0].images.dtype == np.uint8
    assert batches[0].labels.dtype == np.int32
    assert as_set(batches[0]) == as_set(batches[3]) != as_set(batches[1])
    assert {n for batch in batches for n in batch.labels.tolist()} == {0, 1, 2}
    parts = [take(synthetic(Shard(index=index, count=2)), 1)[0] for index in range(2)]
    assert as_set(*parts) == as_set(batches[0])
    assert as_set(take(synthetic(first=12), 1)[0]) != as_set(batches[0])
