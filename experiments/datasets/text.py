"""Tinyshakespeare, or Python's own source if it is unavailable."""

import argparse
import ast
import hashlib
import inspect
import typing
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.datasets.sources import (
    DataError,
    Unavailable,
    download,
    find_together,
    locate,
)

FILE = "tinyshakespeare.txt"
SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
DIGEST = "6fb458f1232090904fb40fe944165e91"


class Text(NamedTuple):
    """Characters as numbers: int32 [n] to train on, the [m] that follow to test on."""

    train: Array
    test: Array
    characters: int
    name: str


def shakespeare(folder: str = "") -> Text:
    """The text, nine tenths of it to train on.

    Args:
      folder: holds tinyshakespeare.txt, or it is in `text/`; empty: JSPARSE_DATA, the cache, a
        download, or at last Python's own source. Another text in that file has another name.

    Raises:
      DataError: the file is missing in a folder that was given, or holds no text.
    """
    name, text = _read(folder)
    letters, codes = np.unique(list(text), return_inverse=True)
    cut = round(0.9 * len(codes))
    known, new = (jnp.asarray(part, jnp.int32) for part in (codes[:cut], codes[cut:]))
    return Text(known, new, len(letters), name)


def stretches(key: Array, text: Array, number: int, length: int) -> Array:
    """Stretches of text from random places, [number, length].

    Raises:
      ValueError: the text is not longer than a stretch.
    """
    if len(text) <= length:
        raise ValueError(
            f"stretches of {length} characters do not fit into a text of {len(text)}; give a "
            "longer text or shorter stretches"
        )
    places = jax.random.randint(key, (number, 1), 0, len(text) - length)
    return text[places + jnp.arange(length)[None]]


def _read(folder: str) -> tuple[str, str]:
    """The name of a text, and the text."""
    find = lambda folder: find_together(folder, ("", "text"), [FILE])[FILE]
    try:
        path = locate(folder, find, lambda cache: download(SOURCE, cache / FILE, DIGEST))
    except Unavailable:
        modules = (argparse, ast, inspect, typing)
        text = "".join(Path(str(m.__file__)).read_text(encoding="utf-8") for m in modules)
        return "Python's own source (no tinyshakespeare was found)", text
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}); fetch it again") from error
    if hashlib.md5(content).hexdigest() == DIGEST:
        return "tinyshakespeare", text
    return f"a text of {len(text):,} characters that is not tinyshakespeare", text
