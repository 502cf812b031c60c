"""TFRecord files and the tf.train.Example messages in them, read without TensorFlow.

A TFRecord file is a row of records: the length (uint64), a check sum of these 8 bytes (uint32), the
data, a check sum of the data (uint32), all little-endian. A check sum is a CRC-32C, turned and
shifted. The sums of all lengths are checked at the start, which finds a torn file or one of another
kind; that of the data each time it is read.
"""

import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.sources import DataError, extra

HEAD, FOOT = struct.Struct("<QI"), struct.Struct("<I")
READERS = 16
"""Files indexed at a time."""


def check_sum(content: bytes) -> int:
    """As TFRecord files store it: turned right by 15 bits, shifted by a constant."""
    crc = extra("google_crc32c").value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Spans(NamedTuple):
    """Where records lie.

    Attributes:
        file: Which file, int32 `[n]`.
        start: First byte of the data, int64 `[n]`.
        length: Bytes of data, int64 `[n]`.
    """

    file: np.ndarray
    start: np.ndarray
    length: np.ndarray


def index(paths: list[Path]) -> Spans:
    """Where each record of TFRecord files lies, in the order of the files.

    Reads 12 bytes of each record, several files at a time.

    Raises:
        DataError: A file is cut off, or is no TFRecord file.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(_spans, paths))
    file = np.repeat(np.arange(len(paths), dtype=np.int32), [len(spans) for spans in found])
    spans = np.array([span for spans in found for span in spans], np.int64).reshape(-1, 2)
    return Spans(file, spans[:, 0], spans[:, 1])


def _spans(path: Path) -> list[tuple[int, int]]:
    size, at, spans = path.stat().st_size, 0, []
    if not size:
        raise DataError(f"{path} is empty; make or fetch it again")
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(HEAD.size)
            end = at + HEAD.size
            if len(head) == HEAD.size:
                length, told = HEAD.unpack(head)
                if told != check_sum(head[:8]):
                    raise DataError(
                        f"{path}, byte {at}: the check sum of a record's length is wrong; the file "
                        "is damaged or no TFRecord file: make or fetch it again"
                    )
                end += length + FOOT.size
            if end > size or len(head) < HEAD.size:
                raise DataError(
                    f"{path} is cut off: record {len(spans)} ends at byte {end}, the file has "
                    f"{size}; make or fetch it again"
                )
            spans.append((at + HEAD.size, length))
            at = end
    return spans


def read(path: Path, start: int, length: int) -> bytes:
    """The data of a record; safe in many threads at once.

    Raises:
        DataError: The data or their check sum are damaged.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        found = os.pread(file, length + FOOT.size, start)
    finally:
        os.close(file)
    content, told = found[:length], found[length:]
    if told != FOOT.pack(check_sum(content)):
        raise DataError(
            f"{path}, byte {start}: the check sum of a record of {length} bytes is wrong; make or "
            "fetch the file again"
        )
    return content


def features(message: bytes) -> dict[str, list[bytes] | list[int]]:
    """What a tf.train.Example holds: bytes and integers by name; lists of floats are left out.

    Raises:
        ValueError: It is no such message.
    """
    found: dict[str, list[bytes] | list[int]] = {}
    for number, inner in _fields(message):
        if number != 1 or not isinstance(inner, bytes):
            raise ValueError(f"an Example has one field, 1, a message; found field {number}")
        for _, entry in _fields(inner):
            pair = dict(_fields(_message(entry)))
            name, feature = _message(pair.get(1, b"")), _message(pair.get(2, b""))
            for kind, values in _fields(feature):
                if kind == 1:
                    found[name.decode()] = [_message(value) for _, value in _fields(values)]
                elif kind == 3:
                    found[name.decode()] = list(_integers(_message(values)))
    return found


def _message(value: bytes | int) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError(f"a message or text is needed, found the number {value}")


def _fields(message: bytes | int) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a protocol buffer: number and content, which is bytes or an integer."""
    message, at = _message(message), 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"byte {at}: wire type {wire}, known are 0, 1, 2 and 5")
        length, at = _varint(message, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if at + length > len(message):
            raise ValueError(f"byte {at}: a field of {length} bytes, {len(message) - at} are left")
        yield number, message[at : at + length]
        at += length


def _integers(values: bytes) -> Iterator[int]:
    """Of an Int64List, packed or not."""
    for _, value in _fields(values):
        if isinstance(value, int):
            yield _signed(value)
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            yield _signed(number)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, lowest first, and the place after it."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError(f"byte {at}: an integer without an end")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
