"""ImageNet's records from a folder of JPEGs or from array records, by number.

Both layouts give the same thing: `len(source)` records, and `source[n]` with the encoded image and
its class, from any thread or process. Classes count from 0, in the order of the folders' names,
which is also the order of the labels in the usual record files.
"""

import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from experiments.datasets.sources import DataError, extra

CLASSES = 1000
OFFICIAL = (1_281_167, 50_000)
"""Images to train and to test on in ILSVRC 2012."""
SUFFIXES = (".jpeg", ".jpg", ".png")
SHARD = re.compile(
    r"((?:.*-)?(train|val(?:idation)?))(\.array_record)?(?:-(\d{5})-of-(\d{5}))?(\.array_record)?"
)
"""Name, split, suffix or not, number and count of a shard, suffix or not."""
CONVERT = "see dst_imagenet in experiments/README.md for the line that converts them"


class Record(NamedTuple):
    """Where an image comes from, the image in JPEG or PNG, and its class, from 0."""

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
    """ImageNet, or data laid out like it, in either of two layouts.

    Args:
        folder: Holds `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`; or array records of
            tf.train.Example, in the folder or one below it: `*-train.array_record-*` as TensorFlow
            Datasets writes them, with `image` and `label` from 0, or `train-*.array_record` and
            `validation-*.array_record` with `image/encoded` and `image/class/label` from 1.
            Empty: JSPARSE_DATA.
        classes: How many there are.

    Raises:
        DataError: Something is missing, of another number of classes, or damaged.
    """
    given = folder or os.environ.get("JSPARSE_DATA", "")
    if not given:
        raise DataError(
            "ImageNet cannot be downloaded without an account: get it from image-net.org and name "
            "its folder with --data or JSPARSE_DATA, or use --synthetic for made-up images"
        )
    place = Path(given).expanduser()
    if not place.is_dir():
        raise DataError(f"{place} is not a folder; give one that holds ImageNet with --data")
    shards = {split: _shards(place, split) for split in ("train", "val")}
    if all(shards.values()):
        train, test = (ArrayRecords(paths, classes) for paths in shards.values())
    elif any(shards.values()):
        lacking = "train" if shards["val"] else "validation"
        raise DataError(f"{place} has array records, but no {lacking}*.array_record*; add them")
    else:
        train, test = _folders(place, classes)
    counts = len(train), len(test)
    name = f"data in ImageNet's layout ({counts[0]} + {counts[1]} images, {classes} classes)"
    return ImageNet(train, test, "ImageNet" if (*counts, classes) == (*OFFICIAL, CLASSES) else name)


def _folders(folder: Path, classes: int) -> tuple["Folder", "Folder"]:
    lacking = [sub for sub in ("train", "val") if not (folder / sub).is_dir()]
    if lacking:
        old = any(
            "tfrecord" in p.name or re.search(r"-\d{5}-of-\d{5}$", p.name) for p in _shown(folder)
        )
        raise DataError(
            f"{folder} holds no ImageNet: {' and '.join(lacking)} not found, nor array records "
            "(*train*.array_record*); point --data or JSPARSE_DATA at the folder that holds train "
            f"and val{f'; its TFRecords are not read, {CONVERT}' if old else ''}"
        )
    names = _class_folders(folder / "train")
    if len(names) != classes:
        raise DataError(
            f"{folder / 'train'} has {len(names)} class folders, {classes} are wanted; give "
            f"--classes {len(names)} if these are all"
        )
    return Folder(folder / "train", names), Folder(folder / "val", names)


def _class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in order; hidden ones are left out."""
    classes = sorted(one.name for one in _shown(folder) if one.is_dir())
    if not classes:
        raise DataError(
            f"{folder} holds no classes: each class is a folder of its images, such as "
            f"{folder / 'n01440764' / 'n01440764_18.JPEG'}; sort the images into such folders"
        )
    return classes


class Folder:
    """Images in one folder for each class; one may be missing, an unknown one is a DataError."""

    def __init__(self, folder: Path, classes: Sequence[str]):
        self.folder, self.classes = folder, list(classes)
        here = _class_folders(folder)
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


class ArrayRecords:
    """Images in tf.train.Example messages in array-record files; a damaged one is a DataError."""

    def __init__(self, paths: Sequence[Path], classes: int):
        self.folder, self.classes = paths[0].parent, classes
        source = extra("grain.sources").ArrayRecordDataSource
        extra("google.protobuf")
        try:
            self._source = source([str(path) for path in paths])
            self._count = len(self._source)
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(
                f"{paths[0]} to {paths[-1]}: not all are good array-record files ({error})"
            ) from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, n: int) -> Record:
        name = f"{self.folder}, array record {n}"
        try:
            content = self._source[n]
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(f"{name} is damaged; make or fetch its file again ({error})") from error
        return _from_example(name, content, self.classes)


LABELS = {"image/encoded": ("image/class/label", 1), "image": ("label", 0)}
"""By the feature that holds the image: the one that holds the label, and the first label."""


def _from_example(name: str, content: bytes, classes: int) -> Record:
    from google.protobuf.message import DecodeError

    try:
        features = _example().FromString(content).features.feature
    except DecodeError as error:
        raise DataError(
            f"{name} is not a tf.train.Example ({error}); make or fetch its file again"
        ) from error
    for image, (label, first) in LABELS.items():
        if image not in features or label not in features:
            continue
        images, numbers = features[image].bytes_list.value, features[label].int64_list.value
        if len(images) == len(numbers) == 1:
            if not first <= numbers[0] < first + classes:
                raise DataError(
                    f"{name}: {label} is {numbers[0]}, allowed are {first} to "
                    f"{first + classes - 1}; give the right --classes, or make the files again"
                )
            return Record(name, images[0], numbers[0] - first)
    raise DataError(
        f"{name} has the features {', '.join(sorted(features)) or 'none'}; needed are "
        f"{' or '.join(f'{image} and {label}' for image, (label, _) in LABELS.items())}, with one "
        "image and one number"
    )


EXAMPLE = """name: "example.proto" package: "tf" syntax: "proto3"
message_type { name: "Example" field { name: "features" number: 1 type_name: "Features" } }
message_type { name: "Features"
  field { name: "feature" number: 1 type_name: "FeatureEntry" label: LABEL_REPEATED }
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type_name: "Feature" } } }
message_type { name: "Feature"
  field { name: "bytes_list" number: 1 type_name: "BytesList" }
  field { name: "int64_list" number: 3 type_name: "Int64List" } }
message_type { name: "BytesList"
  field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
message_type { name: "Int64List"
  field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
"""
"""tf.train.Example as far as it is read: without lists of floats."""


@functools.cache
def _example() -> Any:
    """tf.train.Example as protobuf's class."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(EXAMPLE, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


def _shards(folder: Path, split: str) -> list[Path]:
    """The array-record files of "train" or "val": one set, all shards there."""
    sets: dict[tuple[Path, str, int], dict[int, Path]] = {}
    for path in sorted([*folder.glob("*.array_record*"), *folder.glob("*/*.array_record*")]):
        match = SHARD.fullmatch(path.name)
        if path.name.startswith(".") or not match or not path.is_file():
            continue  # hidden, half fetched, or another split
        stem, kind, early, number, count, _ = match.groups()
        if kind.startswith(split):
            mine = sets.setdefault((path.parent, stem + (early or ""), int(count or 1)), {})
            mine[int(number or 0)] = path
    if len(sets) > 1:
        one, other = (next(iter(found.values())) for found in list(sets.values())[:2])
        raise DataError(
            f"{folder} holds {len(sets)} sets of record files, such as those of {one} and of "
            f"{other}; leave one there, or give its own folder"
        )
    for (place, stem, count), found in sets.items():
        lacking = [n for n in range(count) if n not in found]
        if lacking:
            raise DataError(
                f"{place} lacks {len(lacking)} of {count} shards, the first is "
                f"{stem}-{lacking[0]:05d}-of-{count:05d}; fetch them all"
            )
        return list(found.values())
    return []
