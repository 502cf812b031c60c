"""ImageNet's records from a folder of JPEGs, from TFRecords or from array records, by number.

Every layout gives the same thing: `len(source)` records, and `source[n]` with the encoded image and
its class, from any thread or process. Classes count from 0, in the order of the folders' names,
which is also the order of the labels in the usual TFRecords.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from experiments.common import records
from experiments.common.sources import DataError, Unavailable, extra, locate

CLASSES = 1000
OFFICIAL = (1_281_167, 50_000)
"""Images to train and to test on in ILSVRC 2012."""
SUFFIXES = (".jpeg", ".jpg", ".png")
RECORDS = {
    "train": ("train-*-of-*", "train/train-*-of-*", "*/*-train.tfrecord-*", "*-train.tfrecord-*"),
    "test": (
        *("validation-*-of-*", "validation/validation-*-of-*", "val/validation-*-of-*"),
        *("*/*-validation.tfrecord-*", "*-validation.tfrecord-*"),
    ),
}
ARRAY_RECORDS = {
    "train": ("*-train.array_record*", "*/*-train.array_record*", "train*.array_record*"),
    "test": ("*-validation.array_record*", "*/*-validation.array_record*", "val*.array_record*"),
}
SHARD = re.compile(r"(.*?)(?:-(\d{5})-of-(\d{5}))?(\.array_record)?")
"""Name, number and count of a shard, and a suffix; a file has a number, a suffix or both."""


class Record(NamedTuple):
    """An image as it is stored.

    Attributes:
        name: Where it comes from.
        image: JPEG or PNG.
        label: From 0.
    """

    name: str
    image: bytes
    label: int


class Source(Protocol):
    """Records by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, n: int) -> Record: ...


class ImageNet(NamedTuple):
    """Both parts, and the name under which results are reported."""

    train: Source
    test: Source
    name: str


def imagenet(folder: str = "", classes: int = CLASSES) -> ImageNet:
    """ImageNet, or data laid out like it, in whichever of three ways a folder holds them.

    Args:
        folder: Holds `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`; or TFRecords, `train-*-of-*` and
            `validation-*-of-*` with `image/encoded` and `image/class/label` from 1; or files as
            TensorFlow Datasets writes them, `*-train.array_record-*` (or `.tfrecord-*`), with
            `image` and `label` from 0, in the folder or one below it. Empty: JSPARSE_DATA.
        classes: How many there are.

    Raises:
        DataError: Something is missing, of another number of classes, or damaged.
    """
    try:
        return locate(folder, lambda place: _open(place, classes), _no_download)
    except Unavailable as error:
        raise DataError(str(error)) from error


def _no_download(_: Path) -> ImageNet:
    raise DataError(
        "ImageNet cannot be downloaded without an account: get it from image-net.org and name its "
        "folder with --data or JSPARSE_DATA, or use --synthetic for made-up images"
    )


def _open(folder: Path, classes: int) -> ImageNet:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one that holds ImageNet with --data")
    kinds = (ARRAY_RECORDS, ArrayRecords), (RECORDS, TFRecords)  # patterns of the last fit both
    for patterns, kind in kinds:
        found = {split: _shards(folder, patterns[split]) for split in patterns}
        if any(found.values()):
            lacking = [split for split in found if not found[split]]
            if lacking:
                raise DataError(
                    f"{folder} has record files, but none to {lacking[0]} on; looked for "
                    f"{', '.join(patterns[lacking[0]])}"
                )
            train, test = (Examples(kind(found[split]), classes) for split in ("train", "test"))
            return ImageNet(train, test, _name(train, test, classes))
    lacking = [sub for sub in ("train", "val") if not (folder / sub).is_dir()]
    if lacking:
        raise DataError(
            f"{folder} holds no ImageNet: {' and '.join(lacking)} not found, nor TFRecords "
            f"({RECORDS['train'][0]}), nor array records ({ARRAY_RECORDS['train'][0]}); point "
            "--data or JSPARSE_DATA at the folder that holds train and val"
        )
    names = class_folders(folder / "train")
    if len(names) != classes:
        raise DataError(
            f"{folder / 'train'} has {len(names)} class folders, {classes} are wanted; give "
            f"--classes {len(names)} if these are all"
        )
    train, test = Folder(folder / "train", names), Folder(folder / "val", names)
    return ImageNet(train, test, _name(train, test, classes))


def _name(train: Source, test: Source, classes: int) -> str:
    counts = len(train), len(test)
    if (*counts, classes) == (*OFFICIAL, CLASSES):
        return "ImageNet"
    return f"data in ImageNet's layout ({counts[0]} + {counts[1]} images, {classes} classes)"


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in order; hidden ones are left out.

    Raises:
        DataError: There are none.
    """
    classes = sorted(one.name for one in _shown(folder) if one.is_dir())
    if not classes:
        raise DataError(
            f"{folder} holds no classes: each class is a folder of its images, such as "
            f"{folder / 'n01440764' / 'n01440764_18.JPEG'}; sort the images into such folders"
        )
    return classes


class Folder:
    """Images in one folder for each class.

    Args:
        folder: Holds the class folders.
        classes: Their names; a class may be missing here, no other may be there.

    Raises:
        DataError: There are no classes, an unknown one, or no images.
    """

    def __init__(self, folder: Path, classes: Sequence[str]):
        self.folder, self.classes = folder, list(classes)
        here = class_folders(folder)
        strange = sorted(set(here) - set(classes))
        if strange:
            raise DataError(
                f"{folder} has the class {strange[0]}, which is not among the {len(classes)} to "
                "train on; both folders need the same classes"
            )
        found = [(self.classes.index(name), _images(folder / name)) for name in here]
        self._label = np.repeat([label for label, _ in found], [len(files) for _, files in found])
        # bytes of one width, since workers get a copy of more than a million names
        self._file = np.array([os.fsencode(name) for _, files in found for name in files])

    def __len__(self) -> int:
        return len(self._label)

    def __getitem__(self, n: int) -> Record:
        label = int(self._label[n])
        path = self.folder / self.classes[label] / os.fsdecode(self._file[n])
        return Record(str(path), path.read_bytes(), label)


def _shown(folder: Path) -> Iterator[os.DirEntry]:
    """What a folder holds; not what systems hide in it."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith((".", "__MACOSX")))


def _images(folder: Path) -> list[str]:
    files = (one.name for one in _shown(folder) if one.is_file())
    names = sorted(name for name in files if name.lower().endswith(SUFFIXES))
    if not names:
        raise DataError(
            f"{folder} holds no image ({', '.join(SUFFIXES)}, in any case); add its images or "
            "remove the folder"
        )
    return names


class Stored(Protocol):
    """Messages by number: where each comes from, and its bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, n: int) -> tuple[str, bytes]: ...


class TFRecords:
    """What TFRecord files hold; the files are indexed once, at the start."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self._spans = records.index(self.paths)

    def __len__(self) -> int:
        return len(self._spans.file)

    def __getitem__(self, n: int) -> tuple[str, bytes]:
        file, start, length = (int(column[n]) for column in self._spans)
        path = self.paths[file]
        return f"{path}, byte {start}", records.read(path, start, length)


class ArrayRecords:
    """What array-record files hold, such as those of TensorFlow Datasets."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        what = f"{paths[0]} to {paths[-1]}: not all are good array-record files"
        with _named_faults(what):
            self._source = extra("grain.sources").ArrayRecordDataSource([str(p) for p in paths])
            self._count = len(self._source)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, n: int) -> tuple[str, bytes]:
        name = f"{self.paths[0].parent}, array record {n}"
        with _named_faults(f"{name} is damaged; make or fetch its file again"):
            return name, self._source[n]


@contextlib.contextmanager
def _named_faults(what: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(f"{what} ({error})") from error


class Examples:
    """Images in tf.train.Example messages.

    Args:
        stored: The messages.
        classes: How many there are.
    """

    def __init__(self, stored: Stored, classes: int):
        self.stored, self.classes = stored, classes

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, n: int) -> Record:
        return _from_example(*self.stored[n], self.classes)


LABELS = {"image/encoded": ("image/class/label", 1), "image": ("label", 0)}
"""By the feature that holds the image: the one that holds the label, and the first label."""


def _from_example(name: str, content: bytes, classes: int) -> Record:
    try:
        found = records.features(content)
    except ValueError as error:
        raise DataError(
            f"{name}: the record is no tf.train.Example ({error}); make or fetch it again"
        ) from error
    for image, (label, first) in LABELS.items():
        match found.get(image), found.get(label):
            case [bytes() as encoded], [int() as number]:
                if not first <= number < first + classes:
                    raise DataError(
                        f"{name}: {label} is {number}, allowed are {first} to "
                        f"{first + classes - 1}; give the right --classes, or make the files again"
                    )
                return Record(name, encoded, number - first)
    raise DataError(
        f"{name}: the record has the features {', '.join(sorted(found)) or 'none'}; needed are "
        f"{' or '.join(f'{image} and {label}' for image, (label, _) in LABELS.items())}, with one "
        "image and one number"
    )


def _shards(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of the first pattern that fits any: one set, all shards there."""
    for pattern in patterns:
        sets: dict[tuple[Path, str, int], dict[int, Path]] = {}
        for path in sorted(folder.glob(pattern)):
            stem, number, count, suffix = SHARD.fullmatch(path.name).groups()  # type: ignore[union-attr]
            if path.name.startswith(".") or not (number or suffix) or not path.is_file():
                continue  # hidden, or half fetched
            kind = (path.parent, stem if number else "", int(count or 0))
            mine = sets.setdefault(kind, {})
            mine[int(number or len(mine))] = path
        if not sets:
            continue
        if len(sets) > 1:
            one, other = (next(iter(found.values())) for found in list(sets.values())[:2])
            raise DataError(
                f"{folder} holds {len(sets)} sets of record files, such as those of {one} and of "
                f"{other}; leave one there, or give its own folder"
            )
        (((place, stem, count), found),) = sets.items()
        lacking = [n for n in range(count) if n not in found]
        if lacking:
            raise DataError(
                f"{place} lacks {len(lacking)} of {count} shards, the first is "
                f"{stem}-{lacking[0]:05d}-of-{count:05d}; fetch them all"
            )
        return list(found.values())
    return []
