"""ImageNet: its three layouts, what is read of them, the network and the experiment.

All files are made here: JPEGs of 40x30 pixels in three classes, each class of one colour.
"""

import dataclasses
import io
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js

pytest.importorskip("tyro", reason="the experiments need their extra packages")
pytest.importorskip("grain", reason="reading ImageNet needs the extra packages of `imagenet`")
pytest.importorskip("PIL")

from PIL import Image

from experiments import common, dst_imagenet
from experiments.common import records, stream
from experiments.common.imagenet import Record, imagenet
from experiments.common.parallel import likelier
from experiments.common.sources import DataError
from experiments.common.stream import Readers, Shard, Synthetic, Training, decode, in_order

ROOT = Path(__file__).parent.parent
NAMES = ["n01", "n02", "n10"]
COLOURS = {"n01": (200, 30, 30), "n02": (30, 200, 30), "n10": (30, 30, 200)}
COUNTS = {"train": (5, 3, 3), "val": (2, 1, 1)}
THREADS = Readers(threads=2, ahead=2)
ONE = Shard(index=0, count=1)

# ---------------------------------------------------------------- files made here


def jpeg(colour, number: int, size=(40, 30)) -> bytes:
    """One colour with a mark that tells the number: the brightness of the corner."""
    pixels = np.full((size[1], size[0], 3), colour, np.uint8)
    pixels[:8, :8] = 20 * number
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def split_of(split: str) -> list[tuple[str, bytes]]:
    return [
        (name, jpeg(COLOURS[name], number))
        for name, count in zip(NAMES, COUNTS[split], strict=True)
        for number in range(count)
    ]


def put_folder(folder: Path) -> Path:
    for split in COUNTS:
        for number, (name, content) in enumerate(split_of(split)):
            path = folder / split / name / f"{name}_{number:02d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def example_class():
    """tf.train.Example, made from its definition by the protocol buffer library."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="e.proto", package="t", syntax="proto3")
    kinds = {"BytesList": 12, "FloatList": 2, "Int64List": 3}
    for name, kind in kinds.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=3, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(kinds, 1):
        feature.field.add(
            name=name, number=number, label=1, type=11, type_name=f".t.{name}", oneof_index=0
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".t.Feature")
    inner = ".t.Features.FeatureEntry"
    features.field.add(name="feature", number=1, label=3, type=11, type_name=inner)
    message = file.message_type.add(name="Example")
    message.field.add(name="features", number=1, label=1, type=11, type_name=".t.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def example(**values) -> bytes:
    message = example_class()()
    for name, value in values.items():
        feature = message.features.feature[name.replace("__", "/")]
        if isinstance(value, bytes):
            feature.BytesList.value.append(value)
        elif isinstance(value, list):
            feature.Int64List.value.extend(value)
        elif isinstance(value, float):
            feature.FloatList.value.append(value)
        else:
            feature.Int64List.value.append(value)
    return message.SerializeToString()


def usual(content: bytes, label: int) -> bytes:
    """As the usual TFRecords have it, with more features than are read."""
    extra = {"image__height": 30, "image__object__bbox__xmin": 0.5, "image__format": b"JPEG"}
    return example(image__encoded=content, image__class__label=label + 1, **extra)


def framed(contents: list[bytes]) -> bytes:
    def sums(content: bytes) -> bytes:
        return struct.pack("<I", records.check_sum(content))

    heads = [struct.pack("<Q", len(content)) for content in contents]
    both = zip(heads, contents, strict=True)
    return b"".join(head + sums(head) + content + sums(content) for head, content in both)


def put_tfrecords(folder: Path) -> Path:
    for split, stem in (("train", "train"), ("val", "validation")):
        made = [usual(content, NAMES.index(name)) for name, content in split_of(split)]
        folder.mkdir(parents=True, exist_ok=True)
        for shard in range(2):
            file = folder / f"{stem}-{shard:05d}-of-00002"
            half = made[: len(made) // 2] if shard == 0 else made[len(made) // 2 :]
            file.write_bytes(framed(half))
    return folder


def put_array_records(folder: Path) -> Path:
    from array_record.python.array_record_module import ArrayRecordWriter

    for split, stem in (("train", "train"), ("val", "validation")):
        place = folder / "5.1.0"
        place.mkdir(parents=True, exist_ok=True)
        name = f"imagenet2012-{stem}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(place / name), "group_size:1")
        for folder_name, content in split_of(split):
            label = NAMES.index(folder_name)
            writer.write(example(image=content, label=label, file_name=b"x.JPEG"))
        writer.close()
    return folder


LAYOUTS = {"folder": put_folder, "tfrecords": put_tfrecords, "array": put_array_records}


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_records(tmp_path, layout, monkeypatch):
    monkeypatch.setenv("JSPARSE_DATA", str(LAYOUTS[layout](tmp_path / "data")))
    data = imagenet(classes=3)
    for source, split in ((data.train, "train"), (data.test, "val")):
        found = [source[n] for n in range(len(source))]
        wanted = [(content, NAMES.index(name)) for name, content in split_of(split)]
        assert [(record.image, record.label) for record in found] == wanted
        assert all(str(tmp_path) in record.name for record in found)
    assert data.name == "data in ImageNet's layout (11 + 4 images, 3 classes)"


def test_negative_and_unpacked_integers_are_read():
    assert records.features(example(a=-5, b=2**40)) == {"a": [-5], "b": [2**40]}
    unpacked = b"\x08\x07\x08\x01"  # field 1, an integer, twice
    feature = b"\x1a" + bytes([len(unpacked)]) + unpacked
    entry = b"\x0a\x01a\x12" + bytes([len(feature)]) + feature
    inner = b"\x0a" + bytes([len(entry)]) + entry
    assert records.features(b"\x0a" + bytes([len(inner)]) + inner) == {"a": [7, 1]}


def rewrite(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


def spoil_folder(folder: Path, kind: str) -> str:
    """Damages a folder; returns what the message must say."""
    if kind == "no val":
        (folder / "val").rename(folder / "validation")
        return "val not found"
    if kind == "flat":
        for path in list((folder / "val").iterdir()):
            path.rename(folder / path.name)
        return r"val holds no classes: .*n01440764_18\.JPEG"
    if kind == "strange":
        (folder / "val/n01").rename(folder / "val/n99")
        return "has the class n99, which is not among the 3"
    if kind == "empty":
        (folder / "train/n55").mkdir()
        return "has 4 class folders, 3 are wanted; give --classes 4"
    for path in list((folder / "train/n02").iterdir()):
        path.unlink()
    return r"n02 holds no image \(.jpeg"


@pytest.mark.parametrize("kind", ["no val", "flat", "strange", "empty", "no images"])
def test_a_bad_folder_is_refused(tmp_path, kind):
    words = spoil_folder(put_folder(tmp_path), kind)
    with pytest.raises(DataError, match=words):
        imagenet(str(tmp_path), classes=3)


def test_a_missing_folder_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=f"{tmp_path}/nothing is no folder; give one"):
        imagenet(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"holds no ImageNet: train and val not found, nor TFRec"):
        imagenet(str(tmp_path))


def test_nothing_given_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JSPARSE_DATA", raising=False)
    with pytest.raises(DataError, match=r"image-net\.org and name its folder with --data .*--syn"):
        imagenet()


VALUES = {"text": b"1", "no label": [], "two labels": [1, 2]}


def spoil_records(folder: Path, kind: str) -> str:
    file = folder / "train-00001-of-00002"
    if kind == "shard":
        file.unlink()
        return "lacks 1 of 2 shards, the first is train-00001-of-00002"
    if kind == "cut":
        rewrite(file, lambda content: content[:-5])
        return r"train-00001-of-00002 is cut off: record 5 ends at byte \d+, the file has \d+"
    if kind == "head":
        rewrite(file, lambda content: content + b"123")
        return "is cut off: record 6 ends"
    if kind == "sum":
        rewrite(file, lambda content: content[:8] + b"\0" + content[9:])
        return "byte 0: the check sum of a record's length is wrong"
    if kind == "data":
        rewrite(file, lambda content: content[:-50] + b"\0" + content[-49:])
        return r"00002, byte \d+: the check sum of a record of \d+ bytes is wrong; make or fetch"
    if kind == "none":
        file.write_bytes(b"")
        return "train-00001-of-00002 is empty; make or fetch it again"
    if kind == "two sets":
        shutil.copy(file, folder / "train-00000-of-00001")
        return r"holds 2 sets of record files, such as those of .*-of-00001 and of .*-of-00002"
    if kind == "message":
        file.write_bytes(framed([b"\x0a\x99nonsense"]))
        return r"00002, byte 12: the record is no tf\.train\.Example"
    if kind == "features":
        file.write_bytes(framed([example(image__encoded=b"x", other=1)]))
        return r"has the features image/encoded, other; needed are image/encoded and image/class"
    if kind in VALUES:
        file.write_bytes(framed([example(image__encoded=b"x", image__class__label=VALUES[kind])]))
        return "needed are .* or image and label, with one image and one number"
    label = {"zero": 0, "high": 4}[kind]
    file.write_bytes(framed([example(image__encoded=b"x", image__class__label=label)]))
    return f"image/class/label is {label}, allowed are 1 to 3; give the right --classes"


@pytest.mark.parametrize(
    "kind",
    [
        *("shard", "cut", "head", "sum", "data", "none", "two sets", "message", "features"),
        *(*VALUES, "zero", "high"),
    ],
)
def test_bad_records_are_refused(tmp_path, kind):
    words = spoil_records(put_tfrecords(tmp_path), kind)
    with pytest.raises(DataError, match=words):
        train = imagenet(str(tmp_path), classes=3).train
        train[len(train) - 1]


def test_a_bad_array_record_file_is_refused(tmp_path):
    put_array_records(tmp_path)
    file = next(tmp_path.glob("*/*train*"))
    whole = file.read_bytes()
    place = whole.index(b"image")
    file.write_bytes(whole[:place] + b"X" + whole[place + 1 :])
    train = imagenet(str(tmp_path), classes=3).train
    with pytest.raises(DataError, match=r"5\.1\.0, array record \d+ is damaged; make or fetch"):
        for n in range(len(train)):
            train[n]
    file.write_bytes(whole[:50])
    with pytest.raises(DataError, match="not all are good array-record files"):
        imagenet(str(tmp_path), classes=3)


def test_two_versions_of_array_records_are_refused(tmp_path):
    put_array_records(tmp_path)
    shutil.copytree(tmp_path / "5.1.0", tmp_path / "5.0.0")
    with pytest.raises(DataError, match=r"2 sets .*5\.0\.0/.* and of .*5\.1\.0/.*; leave one"):
        imagenet(str(tmp_path), classes=3)
    assert len(imagenet(str(tmp_path / "5.0.0"), classes=3).train) == 11


def test_a_shards_number_may_stand_before_the_suffix(tmp_path):
    put_array_records(tmp_path)
    for path in list((tmp_path / "5.1.0").iterdir()):
        split = "train" if "train" in path.name else "val"
        path.rename(tmp_path / f"{split}-00000-of-00001.array_record")
    assert len(imagenet(str(tmp_path), classes=3).train) == 11
    lone = tmp_path / "train-00000-of-00001.array_record"
    lone = lone.rename(tmp_path / "train-00001-of-00002.array_record")
    with pytest.raises(DataError, match="lacks 1 of 2 shards, the first is train-00000-of-00002"):
        imagenet(str(tmp_path), classes=3)
    lone.rename(tmp_path / "train.array_record")
    assert len(imagenet(str(tmp_path), classes=3).train) == 11


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_systems_and_downloads_leave_is_not_read(tmp_path, layout):
    data = LAYOUTS[layout](tmp_path)
    for path in [*data.rglob("*")]:
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(b"x")
            shutil.copy(path, path.with_name(f"{path.name}.part"))
    for name in (".cache", "__MACOSX"):
        (data / "train" / name).mkdir(parents=True)
    (data / "train" / "n01").mkdir(exist_ok=True)
    (data / "train" / "n01" / "folder.jpeg").mkdir()
    found = imagenet(str(data), classes=3)
    for source, count in ((found.train, 11), (found.test, 4)):
        assert len(source) == count
        assert all(source[n].image.startswith(b"\xff\xd8") for n in range(count))


def test_names_of_images_may_be_any(tmp_path):
    put_folder(tmp_path)
    names = [os.fsencode(name) for name in ("a b.jpg", "ü%20#?.Png")] + [b"\xff\xe9.JPEG"]
    try:
        for name in names:
            with open(os.fsencode(tmp_path / "train/n02") + b"/" + name, "wb") as file:
                file.write(name)
    except OSError:
        pytest.skip("this file system takes no such names")
    train = imagenet(str(tmp_path), classes=3).train
    assert {train[n].image for n in range(len(train)) if train[n].label == 1} > set(names)


@pytest.mark.parametrize("module", ["grain", "grain.sources", "google_crc32c", "PIL.Image"])
def test_a_missing_package_is_named(tmp_path, module, monkeypatch):
    data = str((put_array_records if "grain" in module else put_tfrecords)(tmp_path))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{module} .*pip install 'jsparse\[imagenet\]', or use"):
        found = imagenet(data, classes=3)
        Training(found.train, batch=2, side=8, seed=0, shard=ONE, readers=THREADS)


def test_records_to_train_on_alone_are_refused(tmp_path):
    put_tfrecords(tmp_path)
    for path in tmp_path.glob("validation*"):
        path.unlink()
    with pytest.raises(DataError, match=r"but none to test on; looked for validation-\*-of-\*"):
        imagenet(str(tmp_path), classes=3)


# ---------------------------------------------------------------- streams


class Numbered:
    """Twenty-three records whose colour tells their number."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, n: int) -> Record:
        return Record(f"record {n}", jpeg((10 * n, 0, 0), 0, size=(16, 12)), n)


def training(shard=ONE, seed=3, readers=THREADS, batch=4) -> Training:
    return Training(Numbered(), batch=batch, side=8, seed=seed, shard=shard, readers=readers)


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
    bad = Training(Torn(), batch=2, side=8, seed=0, shard=ONE, readers=readers)
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
    made = Training(Torn(), batch=2, side=8, seed=0, shard=ONE, readers=THREADS)
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
    np.testing.assert_allclose(stream.centre_box(512, 256), (144, 16, 368, 240))


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


def synthetic(shard=ONE, **changed) -> Synthetic:
    options = {"batch": 4, "side": 8, "classes": 3, "seed": 1, "batches": 3}
    return Synthetic(shard=shard, **{**options, **changed})


def test_made_up_images_have_the_shape_of_real_ones():
    batches = take(synthetic(), 4)
    assert batches[0].images.shape == (4, 8, 8, 3) and batches[0].images.dtype == np.uint8
    assert batches[0].labels.dtype == np.int32
    assert as_set(batches[0]) == as_set(batches[3]) != as_set(batches[1])
    assert {n for batch in batches for n in batch.labels.tolist()} == {0, 1, 2}
    parts = [take(synthetic(Shard(index=index, count=2)), 1)[0] for index in range(2)]
    assert as_set(*parts) == as_set(batches[0])
    assert as_set(take(synthetic(first=12), 1)[0]) != as_set(batches[0])


# ---------------------------------------------------------------- the network


def test_the_network_is_resnet_50_and_all_its_kernels_are_sparse():
    model = nnx.eval_shape(lambda: common.BottleneckNet(nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == 25_557_032
    settings = dst_imagenet.Settings()
    both = nnx.eval_shape(lambda: dst_imagenet.make(settings, 1_281_167, 1))
    masks = nnx.eval_shape(js.masks, both.model)
    assert len(masks) == 54 and sum(mask.size for mask in masks.values()) == 25_502_912
    with pytest.raises(ValueError, match=r"blocks \(3, 0\), width 64, classes 1000: give 1 or"):
        common.BottleneckNet(nnx.Rngs(0), blocks=(3, 0))


@pytest.mark.standard_dtypes
def test_activations_are_bfloat16_and_all_else_float32():
    make = lambda: common.BottleneckNet(nnx.Rngs(0), (1, 1), 4, 10, jnp.bfloat16)
    model = nnx.eval_shape(make)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    inner = nnx.eval_shape(lambda model, x: model.blocks(model.stem(x)), model, x)
    assert inner.dtype == jnp.bfloat16 and inner.shape == (2, 8, 8, 32)
    assert nnx.eval_shape(lambda model, x: model(x), model, x).dtype == jnp.float32


@pytest.mark.standard_dtypes
def test_the_network_computes_what_the_same_weights_do_in_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model = nnx.jit(lambda: common.BottleneckNet(nnx.Rngs(0), (1, 2), 4, 10))()
    model.eval()

    def conv(layer, norm, x, stride, pad):
        kernel = torch.tensor(np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1))
        x = functional.conv2d(x, kernel, stride=stride, padding=pad)
        moments = (torch.tensor(np.asarray(v[...])) for v in (norm.mean, norm.var))
        return functional.batch_norm(x, *moments, eps=1e-5)

    x = np.random.RandomState(0).normal(size=(2, 40, 36, 3)).astype(np.float32)
    y = conv(model.stem, model.norm, torch.tensor(x.transpose(0, 3, 1, 2)), 2, 3).relu()
    y = functional.max_pool2d(y, 3, 2, 1)
    for block, stride, projects in zip(model.blocks.layers, (1, 2, 1), (1, 1, 0), strict=True):
        z = conv(block.conv1, block.norm1, y, 1, 0).relu()
        z = conv(block.conv2, block.norm2, z, stride, 1).relu()
        z = conv(block.conv3, block.norm3, z, 1, 0)
        y = (z + (conv(block.shortcut, block.norm, y, stride, 0) if projects else y)).relu()
    y = y.mean(dim=(2, 3)) @ torch.tensor(np.asarray(model.head.kernel[...]))
    ours = nnx.jit(lambda model, x: model(x))(model, jnp.asarray(x))
    np.testing.assert_allclose(ours, y.numpy(), rtol=1e-3, atol=1e-3)


def test_an_image_is_right_only_where_its_class_stands_out():
    labels = jnp.arange(7)
    logits = jax.random.normal(jax.random.key(0), (7, 7))
    order = np.argsort(-np.asarray(logits), axis=1).tolist()
    assert likelier(logits, labels).tolist() == [order[n].index(n) for n in range(7)]
    assert likelier(jnp.zeros((7, 7)), labels).tolist() == list(range(7))
    assert likelier(jnp.full((7, 7), jnp.nan), labels).tolist() == 7 * [7]


# ---------------------------------------------------------------- the experiment

TINY = dst_imagenet.Settings(
    alpha=1e-2,
    density=0.5,
    batch=8,
    epochs=6,
    side=16,
    classes=3,
    blocks=(1,),
    width=4,
    every=1,
    save=1,
    scale=30.0,
    readers=THREADS,
)


@pytest.fixture
def few_devices(monkeypatch):
    """Two of the fake devices: a program split in eight compiles slowly."""
    make_mesh = jax.make_mesh
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    two = lambda *args, **options: make_mesh(*args, devices=jax.devices()[:2], **options)
    monkeypatch.setattr(jax, "make_mesh", two)


@pytest.mark.slow
@pytest.mark.standard_dtypes
def test_it_trains_on_images_with_lamb_in_bfloat16(tmp_path, few_devices, capsys):
    settings = dataclasses.replace(TINY, optimizer="lamb", bfloat16=True, epochs=4)
    data, out = str(put_folder(tmp_path / "data")), tmp_path / "run"
    dst_imagenet.main(dataclasses.replace(settings, data=data, out=str(out)))
    printed = capsys.readouterr().out
    assert "data in ImageNet's layout (11 + 4 images, 3 classes), lamb, batch 8, 4 epo" in printed
    assert "74.02" in printed and "19.24" in printed
    assert "images per second in training, 2 x cpu" in printed
    rows = common.Run(folder=out).rows()
    assert [row["step"] for row in rows] == [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["density"] < 1 and 0 <= rows[-1]["top1"] <= rows[-1]["top5"] == 1
    names = {path.name for path in out.iterdir()}
    pictures = {"epochs.png", "layers.png", "report.txt"}
    assert names == pictures | {"checkpoints", "settings.json", "log.jsonl", "final.json"}


def test_made_up_images_stand_beside_no_published_number(capsys):
    settings = dataclasses.replace(TINY, synthetic=True, samples=40)
    data = dst_imagenet.data_of(settings)
    assert data.samples == 40 and data.name == "made-up images (40 of 16x16)"
    assert next(data.train).images.shape == data.test()[0].images.shape == (8, 16, 16, 3)
    final = {"top1": 0.5, "top5": 1.0, "density": 0.25, "images_per_second": 12345.6}
    for synthetic in (True, False):
        dst_imagenet.show(dataclasses.replace(settings, synthetic=synthetic), final, "x")
        printed = capsys.readouterr().out
        assert ("published" in printed) != synthetic
        assert "25.00" in printed and "50.00" in printed and "12,346 images per second" in printed


@pytest.mark.slow
@pytest.mark.standard_dtypes
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, few_devices, monkeypatch, capsys):
    settings = dataclasses.replace(TINY, data=str(put_folder(tmp_path / "data")))
    whole = dataclasses.replace(settings, out=str(tmp_path / "whole"))
    dst_imagenet.main(whole)
    cut = dataclasses.replace(settings, out=str(tmp_path / "cut"))
    real, calls = Training.__next__, []

    def killed(self):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Training, "__next__", killed)
    with pytest.raises(KeyboardInterrupt):
        dst_imagenet.main(cut)
    dst_imagenet.main(cut)
    assert len(calls) == 4 + 3  # three steps, the kill, the three that were left
    assert "goes on after step 3" in capsys.readouterr().err
    rows = [common.Run(folder=Path(s.out)).rows() for s in (whole, cut)]
    for row in [*rows[0], *rows[1]]:
        assert row.pop("images_per_second") > 0
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]
    assert rows[0][-1]["density"] < 1
    dst_imagenet.main(cut)  # complete: prints again, trains nothing
    assert len(calls) == 7


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch": 0}, "--batch got 0; give 1 or more"),
        ({"seed": -1}, "--seed got -1; give 0 or more"),
        ({"density": 0.0}, "--density is a fraction"),
        ({"alpha": 0.0}, "--alpha and --scale are above 0"),
        ({"every": 100, "save": 150}, "--save 150 is no multiple of --every 100"),
        ({"batch": 9, "synthetic": True}, "--batch 9 cannot be split over 8 devices"),
        ({"batch": 16}, "a batch of 16 is larger than the 11 training images"),
        ({"classes": 4}, "has 3 class folders, 4 are wanted; give --classes 3"),
    ],
)
def test_bad_settings(changed, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        data = str(put_folder(tmp_path / "data"))
        dst_imagenet.main(dataclasses.replace(TINY, data=data, out=str(tmp_path), **changed))


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on(tmp_path):
    data = put_tfrecords(tmp_path / "data")
    options = (
        f"--data {data} --alpha 1e-2 --density 0.5 --batch 8 --side 16 --classes 3 --blocks 1 "
        "--width 4 --every 1 --save 1 --epochs 4 --readers.threads 2"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "experiments.dst_imagenet", *options.split(), "--out"]
    alone = [*command, str(tmp_path / "alone")]
    part = f"{tmp_path / 'two'} --coordinator localhost:{port} --processes 2 --process"
    parts = [[*command, *part.split(), str(n)] for n in range(2)]
    started = [
        subprocess.Popen(each, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for each in [alone, *parts]
    ]
    for each in started:
        told = each.communicate(timeout=600)
        assert each.returncode == 0, told[1].decode()[-2000:]
    one, two = (common.Run(folder=tmp_path / name).rows() for name in ("alone", "two"))
    assert len(one) == len(two) == 4
    for mine, other in zip(one, two, strict=True):
        assert other["loss"] == pytest.approx(mine["loss"], rel=1e-2)
        assert other["density"] == pytest.approx(mine["density"], abs=0.02)
    # the run of two processes goes on as one: what is left is its last epoch
    (tmp_path / "two/final.json").unlink()
    for path in (tmp_path / "two/checkpoints").glob("step_*4"):
        shutil.rmtree(path)
    again = [*command, str(tmp_path / "two")]
    done = subprocess.run(again, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "goes on after step 3" in done.stderr
    last = common.Run(folder=tmp_path / "two").rows()[-1]
    assert last["loss"] == pytest.approx(two[-1]["loss"], rel=1e-2)
