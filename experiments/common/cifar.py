"""CIFAR-10 from its official binary files, or scikit-learn's digits where there is no CIFAR-10."""

import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np

from experiments.common.data import digits
from experiments.common.sources import (
    DataError,
    Images,
    Unavailable,
    again,
    fetch,
    locate,
    mark,
    unpack,
    warn,
)
from jsparse.files import write_whole

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
INNER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
SOURCE = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
ARCHIVE_DIGEST = "c32a1d4ab5d03f1284b67883e8d87530"  # MD5, from the data set's page
# MD5 of the six files, on which independent public projects that check them agree.
DIGESTS = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def cifar10(folder: str = "") -> Images:
    """CIFAR-10, read from a folder, the cache or the network; else `colour_digits()`, said aloud.

    Args:
        folder: Holds the six binary files, directly or in `cifar-10-batches-bin/`, or the archive
            `cifar-10-binary.tar.gz`. Empty: the environment variable JSPARSE_DATA; where that is
            empty too, the cache `~/.cache/jsparse`, then a download into it, then
            `colour_digits()` with a line on stderr.

    Returns:
        Images `[n, 32, 32, 3]`. Files of any number of records are read; only the official files
        get the name CIFAR-10.

    Raises:
        DataError: A file is missing in a folder that was given, or a file is damaged.
    """
    try:
        place = locate(folder, _find, _download)
    except Unavailable as error:
        warn("CIFAR-10", f"its six binary files or {ARCHIVE}", error)
        return colour_digits()
    contents = _unpacked(place) if place.is_file() else _files(place)
    batches = [_records(contents[name], place, name) for name in DIGESTS]
    labels, images = (np.concatenate(part) for part in zip(*batches[:-1], strict=True))
    return Images(
        train_x=images,
        train_y=labels,
        test_x=batches[-1][1],
        test_y=batches[-1][0],
        name=_name(contents, len(labels), len(batches[-1][0])),
    )


def colour_digits() -> Images:
    """scikit-learn's digits in the shape of CIFAR-10: 32x32, three equal channels."""
    grey = digits(SIDE, "CIFAR-10")
    colour = lambda images: np.repeat(images[..., None], 3, axis=-1)
    return dataclasses.replace(grey, train_x=colour(grey.train_x), test_x=colour(grey.test_x))


def _find(folder: Path) -> Path:
    """The folder that holds all six files, or the archive."""
    places = [folder, folder / INNER]
    missing = list(DIGESTS)
    for place in places:
        lacking = [name for name in DIGESTS if not (place / name).is_file()]
        if not lacking:
            return place
        missing = min(missing, lacking, key=len)
    archive = folder / ARCHIVE
    if archive.is_file():
        return archive
    raise DataError(
        f"{', '.join(missing)} not found; looked in {', '.join(map(str, places))}, and for "
        f"{archive}; all six of {', '.join(DIGESTS)} must be in one of these folders, or the "
        "archive beside them: put them there, point --data or JSPARSE_DATA at their folder, or "
        "leave both empty to download them"
    )


def _download(cache: Path) -> Path:
    """Fetches the archive, checked before it is kept."""
    content = fetch(SOURCE)
    got = hashlib.md5(content).hexdigest()
    if got != ARCHIVE_DIGEST:
        raise DataError(
            f"{SOURCE}: {len(content)} bytes with MD5 {got}, not {ARCHIVE_DIGEST}; try again, or "
            "fetch it by other means"
        )
    write_whole(cache / ARCHIVE, content)
    return cache / ARCHIVE


def _files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DIGESTS}


def _unpacked(archive: Path) -> dict[str, bytes]:
    """The six files in the archive, whatever folder they are in there; nothing is written."""
    content, found = archive.read_bytes(), {}
    whole = lambda _: f"the images of the official one alone have {60_000 * RECORD}"
    try:
        with tarfile.open(fileobj=io.BytesIO(unpack(content, whole)), mode="r:") as tar:
            for member in tar:
                name = Path(member.name).name
                if name in DIGESTS and member.isfile():
                    found[name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    except ValueError as error:
        raise DataError(f"{archive} is {error}; {again(archive, SOURCE)}") from error
    except tarfile.TarError as error:
        raise DataError(
            f"{archive} is no good tar file ({len(content)} bytes, {error}); "
            f"{again(archive, SOURCE)}"
        ) from error
    lacking = [name for name in DIGESTS if name not in found]
    if lacking:
        raise DataError(
            f"{archive} ({len(content)} bytes) lacks {', '.join(lacking)}; {again(archive, SOURCE)}"
        )
    return found


def _records(content: bytes, place: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32 [n] and images uint8 [n, 32, 32, 3] of a file, in a folder or the archive."""
    path = place / name
    remedy = again(place if place.is_file() else path, SOURCE)
    if not content or len(content) % RECORD:
        raise DataError(
            f"{path} has {len(content)} bytes, which is not a positive multiple of {RECORD} (a "
            f"label and {SIDE}x{SIDE} pixels in 3 planes); {remedy}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int32)
    if labels.max() > 9:
        at = int(labels.argmax())
        raise DataError(
            f"{path}, record {at} of {RECORD} bytes, holds the label {labels[at]}, allowed are 0 "
            f"to 9; {remedy}"
        )
    planes = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return labels, np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _name(contents: dict[str, bytes], train: int, test: int) -> str:
    got = {name: hashlib.md5(contents[name]).hexdigest() for name in DIGESTS}
    if got == DIGESTS:
        return "CIFAR-10"
    counts = "" if (train, test) == (50_000, 10_000) else f"{train} + {test} images, "
    return f"CIFAR-10 files that are NOT the official ones ({counts}{mark(got.values())})"
