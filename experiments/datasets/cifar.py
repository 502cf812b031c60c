"""CIFAR-10 and CIFAR-100 from their official binary files, or scikit-learn's digits instead."""

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.datasets.idx import digits
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

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How the binary version of a data set is laid out."""

    name: str
    archive: str
    archive_digest: str
    """MD5, from the data set's page."""
    inner: str
    """The folder in the archive."""
    digests: Mapping[str, str]
    """MD5 of each file, the one to test on last."""
    labels: int
    """Bytes before the pixels of a record; the last of them is the class."""
    classes: int

    @property
    def record(self) -> int:
        """Bytes of an image with its labels."""
        return self.labels + PIXELS

    @property
    def source(self) -> str:
        """Where the archive is."""
        return f"https://www.cs.toronto.edu/~kriz/{self.archive}"


CIFAR10 = Layout(
    name="CIFAR-10",
    archive="cifar-10-binary.tar.gz",
    archive_digest="c32a1d4ab5d03f1284b67883e8d87530",
    inner="cifar-10-batches-bin",
    digests={  # independent public projects that check the files agree on these
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    labels=1,
    classes=10,
)
CIFAR100 = Layout(
    name="CIFAR-100",
    archive="cifar-100-binary.tar.gz",
    archive_digest="03b5dce01913d631647c71ecec9e9cb8",
    inner="cifar-100-binary",
    digests={  # given by one public project alone, so a good archive counts as official too
        "train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
        "test.bin": "4499cfba6c016c1be1438163640a0898",
    },
    labels=2,  # the coarse one, then the fine one
    classes=100,
)


def cifar10(folder: str = "") -> Images:
    """CIFAR-10, read from a folder, the cache or the network; else `color_digits()`, with a
    warning.

    Args:
        folder: Holds the six binary files, directly or in `cifar-10-batches-bin/`, or the archive
            `cifar-10-binary.tar.gz`. Empty: the environment variable JSPARSE_DATA; where that is
            empty too, the cache `~/.cache/jsparse`, then a download into it, then
            `color_digits()` with a line on stderr.

    Returns:
        Images `[n, 32, 32, 3]`. Files of any number of records are read; only the official files
        get the name CIFAR-10.

    Raises:
        DataError: A file is missing in a folder that was given, or a file is damaged.
    """
    return _images(CIFAR10, folder)


def cifar100(folder: str = "") -> Images:
    """CIFAR-100 with its 100 fine labels; found, named and replaced as `cifar10` does.

    Args:
        folder: Holds `train.bin` and `test.bin`, directly or in `cifar-100-binary/`, or the archive
            `cifar-100-binary.tar.gz`; empty as for `cifar10`.

    Returns:
        Images `[n, 32, 32, 3]`, labels 0 to 99; only the official files get the name CIFAR-100.

    Raises:
        DataError: A file is missing in a folder that was given, or a file is damaged.
    """
    return _images(CIFAR100, folder)


def _images(layout: Layout, folder: str) -> Images:
    fetched = lambda cache: download(layout.source, cache / layout.archive, layout.archive_digest)
    try:
        place = locate(folder, lambda folder: _find(layout, folder), fetched)
    except Unavailable as error:
        files = f"its {len(layout.digests)} binary files or {layout.archive}"
        warn(layout.name, files, error)
        return color_digits(layout.name)
    if place.is_file():
        contents = _unpacked(layout, place)
    else:
        contents = {name: (place / name).read_bytes() for name in layout.digests}
    batches = [_records(layout, contents[name], place, name) for name in layout.digests]
    labels, images = (np.concatenate(part) for part in zip(*batches[:-1], strict=True))
    counts = len(labels), len(batches[-1][0])
    return Images(
        train_x=images,
        train_y=labels,
        test_x=batches[-1][1],
        test_y=batches[-1][0],
        name=_name(layout, place, contents, counts),
    )


def color_digits(missing: str = "CIFAR-10") -> Images:
    """scikit-learn's digits in the shape of CIFAR-10: 32x32, three equal channels, 10 classes."""
    gray = digits(SIDE, missing)
    color = lambda images: np.repeat(images[..., None], 3, axis=-1)
    return dataclasses.replace(gray, train_x=color(gray.train_x), test_x=color(gray.test_x))


def _find(layout: Layout, folder: Path) -> Path:
    """The folder that holds all files, or the archive."""
    archive = folder / layout.archive
    try:
        found = find_together(folder, ("", layout.inner), layout.digests)
    except DataError as error:
        if archive.is_file():
            return archive
        raise DataError(f"{error}; the archive {archive} would do too") from error
    return next(iter(found.values())).parent


def _unpacked(layout: Layout, archive: Path) -> dict[str, bytes]:
    """The files in the archive, whatever folder they are in there; nothing is written."""
    content, found = archive.read_bytes(), {}
    whole = lambda _: f"the images of the official one alone have {60_000 * layout.record}"
    try:
        with tarfile.open(fileobj=io.BytesIO(unpack(content, whole)), mode="r:") as tar:
            for member in tar:
                name = Path(member.name).name
                if name in layout.digests and member.isfile():
                    found[name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    except ValueError as error:
        raise DataError(f"{archive} is {error}; {again(archive, layout.source)}") from error
    except tarfile.TarError as error:
        raise DataError(
            f"{archive} is not a whole tar file ({len(content)} bytes, {error}); "
            f"{again(archive, layout.source)}"
        ) from error
    lacking = [name for name in layout.digests if name not in found]
    if lacking:
        raise DataError(
            f"{archive} ({len(content)} bytes) lacks {', '.join(lacking)}; "
            f"{again(archive, layout.source)}"
        )
    return found


def _records(
    layout: Layout, content: bytes, place: Path, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32 [n] and images uint8 [n, 32, 32, 3] of a file, in a folder or the archive."""
    path = place / name
    remedy = again(place if place.is_file() else path, layout.source)
    if not content or len(content) % layout.record:
        raise DataError(
            f"{path} has {len(content)} bytes, which is not a positive multiple of {layout.record} "
            f"({layout.labels} of labels and {SIDE}x{SIDE} pixels in 3 planes); {remedy}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, layout.record)
    labels = records[:, layout.labels - 1].astype(np.int32)
    if labels.max() >= layout.classes:
        at = int(labels.argmax())
        raise DataError(
            f"{path}, record {at} of {layout.record} bytes, holds the label {labels[at]}, allowed "
            f"are 0 to {layout.classes - 1}; {remedy}"
        )
    planes = records[:, layout.labels :].reshape(-1, 3, SIDE, SIDE)
    return labels, np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _name(layout: Layout, place: Path, contents: dict[str, bytes], counts: tuple[int, int]) -> str:
    got = {name: hashlib.md5(contents[name]).hexdigest() for name in layout.digests}
    packed = hashlib.md5(place.read_bytes()).hexdigest() if place.is_file() else ""
    if packed == layout.archive_digest or got == layout.digests:
        return layout.name
    size = "" if counts == (50_000, 10_000) else f"{counts[0]} + {counts[1]} images, "
    return f"{layout.name} files that are NOT the official ones ({size}{mark(got.values())})"
