"""Where data sets come from: a folder, the cache, a download; and the message when none works."""

import dataclasses
import hashlib
import http.client
import importlib
import os
import sys
import urllib.request
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jsparse._storage.files import write_whole

TIMEOUT = 10.0
CACHE = Path(".cache") / "jsparse"

Found = TypeVar("Found")


class DataError(ValueError):
    """A data file is missing or is not what it should be."""


class Unavailable(Exception):
    """No folder was given, the cache lacks the data and they cannot be downloaded."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Images with their classes, split for training and test."""

    train_x: np.ndarray  # uint8 [n, height, width], or [n, height, width, 3] in color
    train_y: np.ndarray  # int32 [n], from 0
    test_x: np.ndarray  # uint8, [m, ...] as train_x
    test_y: np.ndarray  # int32 [m]
    name: str
    """What the data are; results must be reported under this name."""


def first_samples(images: Images, samples: int) -> Images:
    """The images with at most `samples` training images, the first ones; named accordingly.

    Raises:
      ValueError: less than one.
    """
    if samples < 1:
        raise ValueError(f"--samples got {samples}; give 1 or more")
    if samples >= len(images.train_x):
        return images
    return dataclasses.replace(
        images,
        train_x=images.train_x[:samples],
        train_y=images.train_y[:samples],
        name=f"{images.name}, first {samples} training images",
    )


def first_tests(images: Images, count: int) -> Images:
    """The images with at most `count` test images, the first ones."""
    return dataclasses.replace(images, test_x=images.test_x[:count], test_y=images.test_y[:count])


def locate(folder: str, find: Callable[[Path], Found], download: Callable[[Path], Found]) -> Found:
    """The data's place: in `folder`, else in JSPARSE_DATA, else the cache, else downloaded to it.

    Args:
        folder: Given by the user; empty for none.
        find: Looks into a folder; raises DataError where something is missing.
        download: Fills the cache folder.

    Raises:
        DataError: A file is missing in a folder that was given.
        Unavailable: None was given, and the download fails.
    """
    given = str(folder) or os.environ.get("JSPARSE_DATA", "")
    if given:
        return find(Path(given).expanduser())
    cache = Path.home() / CACHE
    try:
        return find(cache)
    except DataError:
        try:
            return download(cache)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(str(error)) from error


def find_together(
    folder: Path, subfolders: Sequence[str], names: Collection[str], suffix: str = ""
) -> dict[str, Path]:
    """Some files by name, all from the first sub-folder that holds them all.

    Args:
        folder: To look into.
        subfolders: Of it; "" is the folder itself.
        names: Of the files.
        suffix: That the name of each file may have, such as ".gz".

    Raises:
        DataError: No sub-folder holds them all.
    """
    places = [folder / sub for sub in subfolders]
    found = [
        {name: path for name in names for path in (place / name, place / f"{name}{suffix}")
         if path.is_file()}
        for place in places
    ]  # fmt: skip
    most = max(found, key=len)
    if len(most) == len(names):
        return most
    raise DataError(
        f"{', '.join(name for name in names if name not in most)}"
        f"{f' (with or without {suffix})' if suffix else ''} not found; looked in "
        f"{', '.join(map(str, places))}; all of {', '.join(names)} must be in one of these: put "
        "them there, point --data or JSPARSE_DATA at their folder, or leave both empty to download "
        "them"
    )


def fetch(url: str) -> bytes:
    """What is at an address."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
        return reply.read()


def download(
    url: str, path: Path, digest: str, kind: str = "md5", unpacked: Callable = bytes
) -> Path:
    """Fetch a file, and keep it if what is in it has the right digest; its path."""
    content = fetch(url)
    got = hashlib.new(kind, unpacked(content)).hexdigest()
    if got != digest:
        raise DataError(
            f"{url}: {len(content)} bytes with {kind.upper()} {got}, not {digest}; try again, or "
            "fetch it by other means"
        )
    write_whole(path, content)
    return path


def unpack(content: bytes, promise: Callable[[bytes], str]) -> bytes:
    """What a gzip file holds; unlike `gzip.decompress` it can say how far it came.

    Args:
        content: Of the file.
        promise: What a whole file would hold, in words, from the part that could be unpacked.

    Raises:
        ValueError: The file is damaged or cut off.
    """
    stream = zlib.decompressobj(wbits=31)
    try:
        unpacked = stream.decompress(content)
    except zlib.error as error:
        raise ValueError(f"not good gzip data ({len(content)} bytes, {error})") from error
    if not stream.eof:
        raise ValueError(
            f"cut off: its {len(content)} bytes unpack to {len(unpacked)}, then the gzip data stop "
            f"({promise(unpacked)})"
        )
    return unpacked


def extra(module: str) -> Any:
    """A module that reading ImageNet needs.

    Raises:
        DataError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"ImageNet is read with grain, array-record, protobuf and pillow ({error}); "
            "install them with pip install 'jsparse[imagenet]', or use --synthetic"
        ) from error


def warn(what: str, files: str, error: Unavailable) -> None:
    """Says on stderr that scikit-learn's digits stand in for the data set `what`."""
    print(
        f"WARNING: no {what}. It was neither in the cache nor could it be downloaded ({error}).\n"
        "WARNING: scikit-learn's digits stand in (1797 images of 8x8): the numbers of this run are "
        f"NOT those of {what}. For {what}, put {files} in a folder and name it with --data or "
        "JSPARSE_DATA.",
        file=sys.stderr,
    )


def again(where: Path, source: str) -> str:
    """What to do about a bad file."""
    return f"delete {where} and fetch it again, for instance from {source}"


def mark(digests: Iterable[str]) -> str:
    """A short name for exactly these contents."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]
