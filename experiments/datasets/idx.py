"""MNIST from its four IDX files, or scikit-learn's small digits where there is no MNIST."""

import hashlib
import http.client
import math
import struct
from pathlib import Path

import numpy as np

from experiments.datasets.sources import (
    DataError,
    Images,
    Unavailable,
    again,
    download,
    find_together,
    locate,
    mark,
    unpack,
    warn,
)

SIDE = 28
SUBFOLDERS = ("", "mnist", "MNIST/raw")
SOURCES = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
# SHA-256 of the unpacked official files.
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist(folder: str = "") -> Images:
    """MNIST, read from a folder, the cache or the network; else `digits()`, with a warning.

    Args:
        folder: Holds the four IDX files, gzipped or not, directly or in `mnist/` or `MNIST/raw/`.
            Empty: the environment variable JSPARSE_DATA; where that is empty too, the cache
            `~/.cache/jsparse`, then a download into it, then `digits()` with a line on stderr.

    Raises:
        DataError: A file is missing in a folder that was given, or a file is damaged.
    """
    try:
        paths = locate(folder, _find, _download)
    except Unavailable as error:
        warn("MNIST", "its four IDX files", error)
        return digits()
    return _read(paths)


def digits(side: int = SIDE, missing: str = "MNIST") -> Images:
    """scikit-learn's bundled 8x8 digits, enlarged: 1437 to train on and 360 to test.

    Always the same shuffled split; the values 0 to 16 become 0 to 255.

    Args:
        side: Of the enlarged images.
        missing: The data set that they stand in for.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the stand-in data need scikit-learn, which is not installed; install it, or put the "
            f"files of {missing} in a folder and name it with --data or JSPARSE_DATA"
        ) from error
    bundle = load_digits()
    order = np.random.RandomState(0).permutation(len(bundle.images))  # a frozen stream
    images, labels = _enlarge(bundle.images[order], side), bundle.target[order].astype(np.int32)
    return Images(
        train_x=images[:1437],
        train_y=labels[:1437],
        test_x=images[1437:],
        test_y=labels[1437:],
        name=f"digits (scikit-learn, 8x8 enlarged to {side}x{side}, NOT {missing})",
    )


def _enlarge(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Bilinear from 8x8 to side x side: `W @ image @ W.T`, values 0..16 to 0..255."""
    small = images.shape[-1]
    center = np.clip((np.arange(side) + 0.5) * small / side - 0.5, 0, small - 1)
    weight = np.maximum(0.0, 1.0 - np.abs(center[:, None] - np.arange(small)[None, :]))
    return np.rint(weight @ images @ weight.T * (255 / 16)).astype(np.uint8)


def _find(folder: Path) -> dict[str, Path]:
    return find_together(folder, SUBFOLDERS, DIGESTS, ".gz")


def _download(cache: Path) -> dict[str, Path]:
    """Fetches the four files from the first source that answers, checked before they are kept."""
    refused = []
    unpacked = lambda content: unpack(content, _promise)
    for source in SOURCES:
        try:
            for name, digest in DIGESTS.items():
                path = cache / f"{name}.gz"
                if not path.is_file():
                    download(f"{source}{name}.gz", path, digest, "sha256", unpacked)
            return _find(cache)
        except (OSError, ValueError, http.client.HTTPException) as error:
            refused.append(f"{source}: {error}")
    raise DataError("; ".join(refused))


def _read(paths: dict[str, Path]) -> Images:
    contents = {}
    for name, path in paths.items():
        contents[name] = path.read_bytes()
        if path.suffix == ".gz":
            try:
                contents[name] = unpack(contents[name], _promise)
            except ValueError as error:
                raise DataError(f"{path} is {error}; {_again(path)}") from error
    arrays = {}
    for x, y in (list(DIGESTS)[:2], list(DIGESTS)[2:]):
        arrays |= {x: _images(contents[x], paths[x]), y: _labels(contents[y], paths[y])}
        if len(arrays[x]) != len(arrays[y]):
            raise DataError(
                f"{paths[x]} has {len(arrays[x])} images and {paths[y]} has {len(arrays[y])} "
                f"labels, the counts must be equal; {_again(paths[y])}"
            )
    got = {name: hashlib.sha256(contents[name]).hexdigest() for name in DIGESTS}
    name = f"IDX files that are NOT the official MNIST ({mark(got.values())})"
    train_x, train_y, test_x, test_y = arrays.values()
    return Images(
        train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y,
        name="MNIST" if got == DIGESTS else name,
    )  # fmt: skip


def _images(content: bytes, path: Path) -> np.ndarray:
    images = _array(content, path, 3)
    count, rows, columns = images.shape
    if count == 0:
        raise DataError(f"{path} holds no image; {_again(path)}")
    if (rows, columns) != (SIDE, SIDE):
        raise DataError(
            f"{path} holds images of {rows}x{columns}, only {SIDE}x{SIDE} is read; {_again(path)}"
        )
    return images


def _labels(content: bytes, path: Path) -> np.ndarray:
    labels = _array(content, path, 1).astype(np.int32)
    if labels.max(initial=0) > 9:
        raise DataError(
            f"{path} holds the label {labels.max()}, allowed are 0 to 9; {_again(path)}"
        )
    return labels


def _array(content: bytes, path: Path, axes: int) -> np.ndarray:
    """What an IDX file of bytes holds, after checking its magic number and its length."""
    magic, start = 2048 + axes, 4 + 4 * axes
    if len(content) < start:
        raise DataError(
            f"{path} is cut off: {len(content)} bytes, the header alone has {start}; {_again(path)}"
        )
    got, *lengths = struct.unpack(f">{axes + 1}I", content[:start])
    if got != magic:
        raise DataError(
            f"{path} starts with the magic number {got}, an IDX file of this kind starts with "
            f"{magic} (is it gzipped without .gz in its name?); {_again(path)}"
        )
    expected = start + math.prod(lengths)
    if len(content) != expected:
        raise DataError(
            f"{path} has {len(content)} bytes when unpacked, its header promises {expected}; "
            f"{_again(path)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(lengths)


def _promise(content: bytes) -> str:
    """How long an IDX header says that its file is."""
    axes = content[3] if len(content) > 3 else 0
    if len(content) < 4 + 4 * axes:
        return "not even the header is whole"
    lengths = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    return f"the header promises {4 + 4 * axes + math.prod(lengths)} bytes"


def _again(where: Path) -> str:
    return again(where, SOURCES[0])
