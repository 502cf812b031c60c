"""The shared parts of the CIFAR-10 experiments: reader, augmentation, residual networks."""

import dataclasses
import gzip
import hashlib
import io
import tarfile
import urllib.error
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from tests.support.cases import needs

pytest.importorskip("tyro", reason="the experiments need their extra packages")

from experiments import datasets
from experiments.datasets import DataError, cifar, cifar10, sources
from experiments.networks import ResNet

TRAIN, TEST = list(cifar.CIFAR10.digests)[:5], "test_batch.bin"
ARCHIVE = cifar.CIFAR10.archive

# ---------------------------------------------------------------- reader


@pytest.fixture(autouse=True)
def _no_home_no_network(monkeypatch, tmp_path):
    def blocked(url):
        raise urllib.error.URLError("blocked by the test")

    monkeypatch.setattr(sources, "fetch", blocked)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JSPARSE_DATA", raising=False)


@pytest.fixture
def contents() -> dict[str, bytes]:
    random = np.random.RandomState(0)

    def batch(count: int) -> bytes:
        pixels = random.randint(0, 256, (count, 3072))
        return np.c_[random.randint(0, 10, count), pixels].astype(np.uint8).tobytes()

    return {name: batch(n + 1) for n, name in enumerate(cifar.CIFAR10.digests)}


def archive(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def put(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def test_each_place_gives_the_same_images(tmp_path, contents, monkeypatch):
    put(tmp_path / "flat", contents)
    put(tmp_path / "inner" / "cifar-10-batches-bin", contents)
    put(tmp_path / "packed", {"cifar-10-binary.tar.gz": archive(contents)})
    monkeypatch.setenv("JSPARSE_DATA", str(tmp_path / "packed"))
    read = [cifar10(str(tmp_path / "flat")), cifar10(str(tmp_path / "inner")), cifar10()]
    records = np.frombuffer(b"".join(contents[name] for name in TRAIN), np.uint8)
    records = records.reshape(-1, 3073)
    for images in read:
        assert images.train_x.shape == (15, 32, 32, 3) and images.train_x.dtype == np.uint8
        assert images.test_x.shape == (6, 32, 32, 3) and images.test_y.dtype == np.int32
        assert images.train_y.tolist() == records[:, 0].tolist()
        row, column, color = 3, 30, 2
        at = 1 + 1024 * color + 32 * row + column
        assert images.train_x[:, row, column, color].tolist() == records[:, at].tolist()
        assert images.name == read[0].name
    assert "NOT the official ones (15 + 6 images, " in read[0].name


def test_only_the_official_files_are_named_cifar10(tmp_path, contents, monkeypatch):
    put(tmp_path, contents)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(cifar, "CIFAR10", dataclasses.replace(cifar.CIFAR10, digests=sums))
    assert cifar10(str(tmp_path)).name == "CIFAR-10"
    changed = bytearray(contents[TEST])
    changed[-1] ^= 1
    (tmp_path / TEST).write_bytes(changed)
    assert "NOT the official" in cifar10(str(tmp_path)).name


def test_missing_file_names_places_and_remedy(tmp_path, contents):
    del contents["data_batch_3.bin"]
    put(tmp_path / "cifar-10-batches-bin", contents)
    with pytest.raises(DataError, match=r"^data_batch_3\.bin not found") as caught:
        cifar10(str(tmp_path))
    text = str(caught.value)
    assert f"{tmp_path}/cifar-10-binary.tar.gz" in text and "--data" in text


def damaged(contents: dict[str, bytes], kind: str) -> tuple[str, bytes, str]:
    """A file's name, its damaged bytes and what the message must say."""
    image, packed = contents[TEST], archive(contents)
    lacking = archive({name: contents[name] for name in TRAIN})
    short = archive({**contents, TEST: bytes(9)})
    return {
        "cut": (TEST, image[:-1], f"{len(image) - 1} bytes, .*multiple of 3073"),
        "empty": (TEST, b"", "0 bytes, .*positive multiple of 3073"),
        "label": (TEST, image[:3073] + b"\x0b" + image[3074:], "record 1 .*label 11, .*0 to 9"),
        "packed cut": (ARCHIVE, packed[:-300], f"cut off: its {len(packed) - 300} bytes"),
        "packed nothing": (ARCHIVE, b"", "cut off: its 0 bytes unpack to 0"),
        "packed sum": (ARCHIVE, packed[:-8] + bytes(8), f"gzip data .{len(packed)} bytes"),
        "packed flip": (ARCHIVE, packed[:5000] + bytes(9) + packed[5009:], "gzip data"),
        "not gz": (ARCHIVE, image, f"not good gzip data .{len(image)} bytes"),
        "not tar": (ARCHIVE, gzip.compress(b"x" * 2000), "not a whole tar file"),
        "packed lacks": (ARCHIVE, lacking, r"bytes. lacks test_batch\.bin"),
        "packed short": (ARCHIVE, short, r"gz/test_batch\.bin has 9 bytes"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["cut", "empty", "label", "packed cut", "packed nothing", "packed sum", "packed flip", "not gz",
     "not tar", "packed lacks", "packed short"],
)  # fmt: skip
def test_damaged_file_is_named_with_bytes_and_remedy(tmp_path, contents, kind):
    name, content, message = damaged(contents, kind)
    put(tmp_path, {**contents, name: content} if name == TEST else {name: content})
    with pytest.raises(DataError, match=message) as caught:
        cifar10(str(tmp_path))
    assert f"delete {tmp_path / name}" in str(caught.value)


def test_download_fills_the_cache_and_is_used_again(tmp_path, contents, monkeypatch):
    packed, asked = archive(contents), []
    digest = hashlib.md5(packed).hexdigest()
    official = dataclasses.replace(cifar.CIFAR10, archive_digest=digest)
    monkeypatch.setattr(cifar, "CIFAR10", official)
    monkeypatch.setattr(sources, "fetch", lambda url: (asked.append(url), packed)[1])
    assert len(cifar10().train_x) == len(cifar10().train_x) == 15
    assert asked == [cifar.CIFAR10.source]
    assert (tmp_path / "home/.cache/jsparse/cifar-10-binary.tar.gz").read_bytes() == packed


@needs("sklearn")
def test_without_network_digits_stand_in_loudly(capsys):
    images = cifar10()
    assert images.name == "digits (scikit-learn, 8x8 enlarged to 32x32, NOT CIFAR-10)"
    assert images.train_x.shape == (1437, 32, 32, 3)
    assert (images.test_x[..., :1] == images.test_x).all()
    told = capsys.readouterr().err
    assert "NOT those of CIFAR-10" in told and "blocked by the test" in told and "--data" in told


@needs("sklearn")
def test_a_download_of_something_else_is_not_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "fetch", lambda url: b"something else")
    cifar10()
    assert "14 bytes with MD5" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_cifar100_takes_the_fine_label(tmp_path, packed, monkeypatch):
    layout, random = cifar.CIFAR100, np.random.RandomState(0)
    records = random.randint(0, 256, (9, 3074)).astype(np.uint8)
    records[:, 0], records[:, 1] = np.arange(9), [99, 0, 98, 20, 3, 7, 55, 61, 10]
    both = {"train.bin": records[:6].tobytes(), "test.bin": records[6:].tobytes()}
    content = archive(both)
    put(tmp_path / "cifar-100-binary", both)
    if packed:
        put(tmp_path, {layout.archive: content})
        for name in both:
            (tmp_path / "cifar-100-binary" / name).unlink()
    images = cifar.cifar100(str(tmp_path))
    assert images.train_y.tolist() == [99, 0, 98, 20, 3, 7] and images.test_y.tolist() == [
        55,
        61,
        10,
    ]
    assert images.train_x[4, 3, 30].tolist() == records[4, [128, 1152, 2176]].tolist()
    assert images.name.startswith("CIFAR-100 files that are NOT the official ones (6 + 3 images, ")
    digest = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cifar, "CIFAR100", dataclasses.replace(layout, archive_digest=digest))
    assert (cifar.cifar100(str(tmp_path)).name == "CIFAR-100") == packed


def test_cifar100_refuses_a_label_above_99(tmp_path):
    put(tmp_path, {"train.bin": bytes(3074), "test.bin": bytes([1, 100]) + bytes(3072)})
    with pytest.raises(DataError, match=r"test\.bin, record 0 of 3074 .*label 100, .*0 to 99"):
        cifar.cifar100(str(tmp_path))


# ---------------------------------------------------------------- augmentation

NUMBERED = jnp.arange(1.0, 6 * 5 * 2 + 1).reshape(1, 6, 5, 2)


def test_pad_crop_flip_gives_each_crop_of_the_padded_image():
    got = jax.jit(pad_by_2)(jax.random.key(0), jnp.repeat(NUMBERED, 800, axis=0))
    padded = np.pad(NUMBERED[0], ((2, 2), (2, 2), (0, 0)))
    crops = [padded[i : i + 6, j : j + 5] for i in range(5) for j in range(5)]
    allowed = {crop.tobytes() for crop in crops} | {crop[:, ::-1].tobytes() for crop in crops}
    seen = [np.asarray(image).tobytes() for image in got]
    assert len(allowed) == 50 and set(seen) == allowed  # each is missed with 50 * 0.98^800 < 1e-5
    flipped = sum(seen.count(crop[:, ::-1].tobytes()) for crop in crops)
    assert abs(flipped - 400) < 5 * 800**0.5 / 2  # 5 standard deviations


def pad_by_2(key, images):
    return datasets.pad_crop_flip(key, images, pad=2)


def test_shift_flip_moves_by_the_same_real_shift_and_repeats_edges():
    h, w, n = 20, 10, 500
    ramps = [np.arange(h)[:, None] + np.zeros(w), np.zeros((h, 1)) + np.arange(w)]
    images = jnp.repeat(jnp.asarray(np.stack(ramps, axis=-1), jnp.float32)[None], n, axis=0)
    out = np.array(jax.jit(datasets.shift_flip)(jax.random.key(0), images))
    assert out.min() >= 0 and (out.max(axis=(0, 1, 2)) <= (h - 1, w - 1)).all()
    flips = out[:, 0, -1, 1] < out[:, 0, 0, 1]
    out[flips] = out[flips][:, :, ::-1]
    down, right = out[:, 10, :, 0] - 10, out[:, :, 5, 1] - 5
    rows, columns = out[:, :, 0, 0], out[:, 0, :, 1]
    for places, shift, side in ((rows, down[:, :1], h), (columns, right[:, :1], w)):
        expected = np.clip(np.arange(side) + shift, 0, side - 1)
        np.testing.assert_allclose(places, expected, atol=1e-4)
        assert 0.09 * side < np.abs(shift).max() <= 0.1 * side + 1e-4
        assert abs(shift.mean()) < 5 * 0.1 * side / (3 * n) ** 0.5  # 5 standard deviations
    assert np.ptp(down, axis=1).max() < 1e-4  # a row goes one way
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / n**0.5


@pytest.mark.parametrize("change", [datasets.pad_crop_flip, datasets.shift_flip])
def test_augmentation_is_pure_and_keeps_the_type(change):
    images = NUMBERED.astype(jnp.bfloat16)
    one, two = change(jax.random.key(1), images), change(jax.random.key(1), images)
    assert one.dtype == jnp.bfloat16 and one.shape == images.shape
    np.testing.assert_array_equal(one, two)
    with pytest.raises(TypeError, match="images are uint8; give floats"):
        change(jax.random.key(1), images.astype(jnp.uint8))


def test_standardized_training_images_have_mean_0_and_deviation_1():
    train = np.random.RandomState(0).randint(0, 200, (700, 4, 5, 3)).astype(np.uint8)
    train[..., 2] //= 2
    whole = np.asarray(datasets.standardize(train)(jnp.asarray(train)))
    np.testing.assert_allclose([whole.mean(), whole.std()], [0, 1], atol=1e-4)
    assert abs(whole[..., 2].mean()) > 0.1  # one mean for all channels
    each = np.asarray(datasets.standardize_channels(train)(jnp.asarray(train)))
    np.testing.assert_allclose(each.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(each.std(axis=(0, 1, 2)), 1, atol=1e-4)


# ---------------------------------------------------------------- residual networks


@pytest.mark.parametrize(("depth", "width"), [(20, 16), (56, 16), (8, 4)])
def test_number_of_weights(depth, width):
    n, w = (depth - 2) // 6, width
    stem, head = 27 * w + 2 * w, 4 * w * 10 + 10
    first = n * (2 * 9 * w * w + 4 * w)
    later = sum(
        9 * o // 2 * o + (2 * n - 1) * 9 * o * o + n * 4 * o + o // 2 * o for o in (2 * w, 4 * w)
    )
    model = nnx.eval_shape(lambda: ResNet(depth, nnx.Rngs(0), width=width))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == stem + first + later + head
    if (depth, width) == (20, 16):
        assert stem + first + later + head == 272_282


def test_one_pattern_takes_the_convolutions_of_the_blocks_alone():
    names = []

    def make():
        model = js.sparsify(ResNet(8, nnx.Rngs(0), width=2), ("blocks/.*/kernel", js.Threshold()))
        names.extend(name.removeprefix("blocks/layers/") for name in js.masks(model))

    jax.eval_shape(make)
    projections = ["1/shortcut/kernel", "2/shortcut/kernel"]
    assert sorted(names) == sorted(
        [f"{block}/conv{n}/kernel" for block in range(3) for n in (1, 2)] + projections
    )


@pytest.mark.standard_dtypes
def test_resnet_trains_by_the_batch_and_tests_by_the_image():
    model = nnx.jit(lambda: ResNet(8, nnx.Rngs(0), width=2))()
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    call = nnx.jit(lambda model, x: model(x))
    model.train()
    together = call(model, x)
    assert together.shape == (4, 10)
    stem = jax.lax.conv_general_dilated(
        x, model.stem.kernel[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(model.norm.mean[...], 0.01 * stem.mean((0, 1, 2)), atol=1e-5)
    model.eval()
    before = np.asarray(model.norm.mean[...])
    tested = call(model, x)
    np.testing.assert_allclose(call(model, x.at[2:].set(9.0))[:2], tested[:2], atol=1e-4)
    np.testing.assert_array_equal(model.norm.mean[...], before)
    assert jnp.abs(together - tested).max() > 0.01
    assert model.norm.epsilon == 1e-3


@pytest.mark.parametrize(("depth", "width"), [(21, 16), (2, 16), (20, 0)])
def test_other_depths_are_refused(depth, width):
    with pytest.raises(ValueError, match=f"depth {depth} and width {width}; the depth is 6 n"):
        ResNet(depth, nnx.Rngs(0), width=width)
