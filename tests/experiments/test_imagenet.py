"""ImageNet: its layouts, and what is read of them."""

import os
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="the experiments need their extra packages")
pytest.importorskip("grain", reason="reading ImageNet needs the extra packages of `imagenet`")
pytest.importorskip("PIL")

from experiments.datasets.imagenet import imagenet
from experiments.datasets.sources import DataError
from experiments.datasets.stream import training
from tests.support.imagenet_files import (
    LAYOUTS,
    NAMES,
    ONE,
    THREADS,
    example,
    put_array_records,
    put_converted,
    put_folder,
    split_of,
    write,
)


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


def test_unpacked_integers_are_read(tmp_path):
    """As another writer of protocol buffers may store them; other features may hold any number."""
    value = b"\x08\x02"  # field 1, the integer 2, not packed

    def inner(content: bytes, tag: bytes = b"\x0a") -> bytes:
        return tag + bytes([len(content)]) + content

    label = inner(inner(b"label") + inner(inner(value, b"\x1a"), b"\x12"))
    content = example(image=b"x", other=-5, big=2**40) + inner(label)
    put_array_records(tmp_path)
    write(next(tmp_path.glob("*/*train*")), [content])
    assert imagenet(str(tmp_path), classes=3).train[0][1:] == (b"x", 2)


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
    with pytest.raises(DataError, match=f"{tmp_path}/nothing is not a folder; give one"):
        imagenet(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"holds no ImageNet: train and val not found, nor array"):
        imagenet(str(tmp_path))


def test_nothing_given_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JSPARSE_DATA", raising=False)
    with pytest.raises(DataError, match=r"image-net\.org and name its folder with --data .*--syn"):
        imagenet()


VALUES = {"text": b"1", "no label": [], "two labels": [1, 2]}


def spoil_records(folder: Path, kind: str) -> str:
    file = folder / "train-00001-of-00002.array_record"
    if kind == "shard":
        file.unlink()
        return "lacks 1 of 2 shards, the first is train-00001-of-00002"
    if kind == "cut":
        rewrite(file, lambda content: content[:-5])
        return "not all are good array-record files"
    if kind == "none":
        file.write_bytes(b"")
        return "not all are good array-record files"
    if kind == "two sets":
        shutil.copy(file, folder / "train-00000-of-00001.array_record")
        return r"holds 2 sets of record files, such as those of .*-of-00001.* and of .*-of-00002"
    if kind == "message":
        write(file, [b"\x0a\x99nonsense"])
        return r"array record \d+ is not a tf\.train\.Example"
    if kind == "features":
        write(file, [example(image__encoded=b"x", other=1)])
        return r"has the features image/encoded, other; needed are image/encoded and image/class"
    if kind in VALUES:
        write(file, [example(image__encoded=b"x", image__class__label=VALUES[kind])])
        return "needed are .* or image and label, with one image and one number"
    label = {"zero": 0, "high": 4}[kind]
    write(file, [example(image__encoded=b"x", image__class__label=label)])
    return f"image/class/label is {label}, allowed are 1 to 3; give the right --classes"


@pytest.mark.parametrize(
    "kind", ["shard", "cut", "none", "two sets", "message", "features", *VALUES, "zero", "high"]
)
def test_bad_records_are_refused(tmp_path, kind):
    words = spoil_records(put_converted(tmp_path), kind)
    with pytest.raises(DataError, match=words):
        train = imagenet(str(tmp_path), classes=3).train
        train[len(train) - 1]


def test_tfrecords_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "train-00000-of-00001").write_bytes(b"x")
    with pytest.raises(DataError, match="its TFRecords are not read, see dst_imagenet in experim"):
        imagenet(str(tmp_path), classes=3)


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


@pytest.mark.parametrize("module", ["grain", "grain.sources", "google.protobuf", "PIL.Image"])
def test_a_missing_package_is_named(tmp_path, module, monkeypatch):
    data = str(put_array_records(tmp_path))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{module} .*pip install 'jsparse\[imagenet\]', or use"):
        found = imagenet(data, classes=3)
        training(found.train, batch=2, side=8, seed=0, shard=ONE, readers=THREADS)


def test_records_to_train_on_alone_are_refused(tmp_path):
    put_converted(tmp_path)
    for path in tmp_path.glob("validation*"):
        path.unlink()
    with pytest.raises(DataError, match=r"array records, but no validation\*\.array_record\*"):
        imagenet(str(tmp_path), classes=3)
