"""Data folders: every place, every damage, downloads, and what stands in without a network."""

import gzip
import struct
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="the experiments need their extra packages")

from experiments.datasets import idx as data
from experiments.datasets.idx import DataError, digits, mnist
from tests.support.cases import needs

TRAIN, LABELS, TEST, TEST_LABELS = data.DIGESTS


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def contents() -> dict[str, bytes]:
    random = np.random.RandomState(0)
    return {
        TRAIN: idx(random.randint(0, 256, (7, 28, 28))),
        LABELS: idx(random.randint(0, 10, 7)),
        TEST: idx(random.randint(0, 256, (3, 28, 28))),
        TEST_LABELS: idx(random.randint(0, 10, 3)),
    }


def put(folder: Path, contents: dict[str, bytes], zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.fixture(autouse=True)
def no_home_no_network(monkeypatch, tmp_path):
    def blocked(url, **options):
        raise urllib.error.URLError("blocked by the test")

    monkeypatch.setattr(urllib.request, "urlopen", blocked)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JSPARSE_DATA", raising=False)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
def test_mnist_is_read_from_each_place(tmp_path, contents, folder, zipped):
    put(tmp_path / folder, contents, zipped)
    images = mnist(str(tmp_path))
    assert images.train_x.shape == (7, 28, 28) and images.train_x.dtype == np.uint8
    assert images.test_y.shape == (3,) and images.test_y.dtype == np.int32
    assert images.train_x.tobytes() == contents[TRAIN][16:]
    assert images.train_y.tolist() == list(contents[LABELS][8:])
    assert "NOT the official MNIST" in images.name


def test_folder_from_the_environment_and_argument_first(tmp_path, contents, monkeypatch):
    put(tmp_path / "a", contents, False)
    monkeypatch.setenv("JSPARSE_DATA", str(tmp_path / "a"))
    assert len(mnist().train_x) == 7
    with pytest.raises(DataError, match="absent"):
        mnist(str(tmp_path / "absent"))


def test_missing_file_names_file_places_and_remedy(tmp_path, contents):
    put(tmp_path / "mnist", contents, True)
    (tmp_path / "mnist" / f"{TEST}.gz").unlink()
    with pytest.raises(DataError) as caught:
        mnist(str(tmp_path))
    text = str(caught.value)
    assert text.startswith(f"{TEST} (with or without .gz) not found")
    assert f"{tmp_path}/MNIST/raw" in text and "--data" in text and "JSPARSE_DATA" in text


def damaged(contents: dict[str, bytes], kind: str) -> tuple[str, bytes, str]:
    """A file's name, its damaged bytes and what the message must say."""
    images, zipped = contents[TRAIN], gzip.compress(contents[TRAIN])
    return {
        "raw cut": (TRAIN, images[:-100], f"{len(images) - 100} bytes.*promises {len(images)}"),
        "raw too long": (TRAIN, images + b"x", f"{len(images) + 1} bytes.*promises {len(images)}"),
        "header cut": (TRAIN, images[:9], "cut off: 9 bytes, the header alone has 16"),
        "empty": (LABELS, b"", "cut off: 0 bytes"),
        "magic": (TRAIN, contents[LABELS] + bytes(9), "magic number 2049.*2051"),
        "size": (TRAIN, idx(np.zeros((7, 8, 8))), "8x8, only 28x28"),
        "no image": (TRAIN, idx(np.zeros((0, 28, 28))), "holds no image"),
        "label": (LABELS, idx(np.full(7, 11)), "label 11, allowed are 0 to 9"),
        "count": (LABELS, idx(np.zeros(6)), "7 images.*6 labels"),
        "gz cut": (f"{TRAIN}.gz", zipped[:-200], f"cut off.*promises {len(images)} bytes"),
        "gz sum cut": (f"{TRAIN}.gz", zipped[:-4], f"cut off.*unpack to {len(images)}"),
        "gz sum": (f"{TRAIN}.gz", zipped[:-8] + bytes(8), "not good gzip data"),
        "not gz": (f"{TRAIN}.gz", images, "not good gzip data"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["raw cut", "raw too long", "header cut", "empty", "magic", "size", "no image", "label",
     "count", "gz cut", "gz sum cut", "gz sum", "not gz"],
)  # fmt: skip
def test_damaged_file_is_named_with_bytes_and_remedy(tmp_path, contents, kind):
    put(tmp_path, contents, False)
    name, content, message = damaged(contents, kind)
    (tmp_path / name.removesuffix(".gz")).unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        mnist(str(tmp_path))
    assert f"delete {tmp_path / name}" in str(caught.value)


@needs("sklearn")
def test_without_network_digits_stand_in_loudly(capsys):
    images = mnist()
    assert "NOT MNIST" in images.name
    told = capsys.readouterr().err
    assert "NOT those of MNIST" in told and "blocked by the test" in told and "--data" in told


@needs("sklearn")
def test_digits_are_the_same_each_time_and_look_like_mnist():
    one, two = digits(), digits()
    assert one.train_x.shape == (1437, 28, 28) and one.test_x.shape == (360, 28, 28)
    assert one.train_x.dtype == np.uint8 and one.train_y.dtype == np.int32
    assert one.train_x.max() == 255 and one.train_x.min() == 0
    np.testing.assert_array_equal(one.test_x, two.test_x)
    assert set(one.test_y) == set(range(10))


def test_enlarging_keeps_constants_and_mean():
    assert (data._enlarge(np.full((2, 8, 8), 16.0)) == 255).all()
    ramp = np.broadcast_to(np.arange(8.0), (1, 8, 8))
    assert abs(data._enlarge(ramp).mean() - 3.5 * 255 / 16) < 0.5


class Reply:
    def __init__(self, content):
        self.content = content

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def read(self):
        return self.content


def test_download_fills_the_cache_and_is_used_again(contents, monkeypatch, tmp_path):
    import hashlib

    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(data, "DIGESTS", sums)
    asked = []

    def serve(url, timeout):
        asked.append(url)
        if url.startswith(data.SOURCES[0]):
            return Reply(gzip.compress(b"something else"))
        return Reply(gzip.compress(contents[url.rsplit("/", 1)[1].removesuffix(".gz")]))

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    assert mnist().name == "MNIST"
    assert len(asked) == 5  # the first source is left at its first wrong file
    assert mnist().name == "MNIST" and len(asked) == 5
    files = sorted(path.name for path in (tmp_path / "home" / ".cache" / "jsparse").iterdir())
    assert files == sorted(f"{name}.gz" for name in contents)
