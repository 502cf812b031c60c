"""ImageNet in its layouts, made here: JPEGs of 40x30 pixels, each class of one color."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.datasets.stream import Readers, Shard

NAMES = ["n01", "n02", "n10"]
COLORS = {"n01": (200, 30, 30), "n02": (30, 200, 30), "n10": (30, 30, 200)}
COUNTS = {"train": (5, 3, 3), "val": (2, 1, 1)}
THREADS = Readers(threads=2, ahead=2)
ONE = Shard(index=0, count=1)


def jpeg(color, number: int, size=(40, 30)) -> bytes:
    """One color with a mark that tells the number: the brightness of the corner."""
    pixels = np.full((size[1], size[0], 3), color, np.uint8)
    pixels[:8, :8] = 20 * number
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def split_of(split: str) -> list[tuple[str, bytes]]:
    return [
        (name, jpeg(COLORS[name], number))
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


def write(path: Path, contents: list[bytes]) -> None:
    """An array-record file."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for content in contents:
        writer.write(content)
    writer.close()


def put_converted(folder: Path) -> Path:
    """As the usual TFRecords are after conversion: two shards, labels from 1, more features."""
    for split, stem in (("train", "train"), ("val", "validation")):
        made = [usual(content, NAMES.index(name)) for name, content in split_of(split)]
        for shard, half in enumerate((made[: len(made) // 2], made[len(made) // 2 :])):
            write(folder / f"{stem}-{shard:05d}-of-00002.array_record", half)
    return folder


def put_array_records(folder: Path) -> Path:
    """As TensorFlow Datasets writes them: labels from 0."""
    for split, stem in (("train", "train"), ("val", "validation")):
        name = f"imagenet2012-{stem}.array_record-00000-of-00001"
        made = [
            example(image=content, label=NAMES.index(folder_name), file_name=b"x.JPEG")
            for folder_name, content in split_of(split)
        ]
        write(folder / "5.1.0" / name, made)
    return folder


LAYOUTS = {"folder": put_folder, "converted": put_converted, "array": put_array_records}
