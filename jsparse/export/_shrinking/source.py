"""Where in the code an operation is called, from the tracebacks that JAX keeps."""

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import flax
import jax
import jaxlib

from jsparse import _pure
from jsparse.export._shrinking.graph import Op


class Frame(NamedTuple):
    """A call in the code; `at`, an offset into the bytecode, tells the calls of a line apart."""

    file: str
    line: int
    at: int


FLAX = str(Path(flax.__file__).parent)
JAX = (
    *(str(Path(str(package.__file__)).parent) for package in (jax, jaxlib)),
    str(contextlib.__file__),  # by which JAX decorates functions
    str(Path(__file__).parent / "marks.py"),
    *(f"{FLAX}/{name}" for name in ("core/", "linen/module.py", "linen/transforms.py")),
)
"""Frames of these files are not a call of a model; the last ones are those by which Linen calls."""
ENTRIES = (str(Path(__file__).parent / "tracing.py"), str(Path(_pure.__file__)))
"""Frames from here on are those of the caller of the library."""
CACHED = "linear_util.py"
"""Frames from here on may be those of an earlier call of a compiled function."""


def called(source: Sequence[Any]) -> list[Frame]:
    """Where an operation is called, the innermost call first, without JAX itself.

    `source`: the tracebacks of its callers and its own, the outermost first.
    """
    found: list[Frame] = []
    for depth, traceback in reversed(list(enumerate(source))):
        places = zip(traceback.frames, traceback.raw_frames()[1], strict=True) if traceback else ()
        for frame, at in places:
            file = frame.file_name
            if file in ENTRIES or (depth and file.endswith(CACHED)):
                break
            if not file.startswith(JAX):
                found.append(Frame(file, frame.line_num, at))
    return found


def raised(traceback: TracebackType | None) -> list[Frame]:
    """Where an error was raised, the innermost call first, without JAX itself."""
    found: list[Frame] = []
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        found.append(Frame(file, traceback.tb_lineno, traceback.tb_lasti))
        traceback = traceback.tb_next
    inner = itertools.takewhile(lambda frame: frame.file not in ENTRIES, found[::-1])
    return [frame for frame in inner if not frame.file.startswith(JAX)]


def place(op: Op) -> str:
    """The file and line of the model's code that calls an operation, as `file.py:12`."""
    return called_at(called(op.source))


def called_at(found: Iterable[Frame]) -> str:
    """The first frame outside Flax, or the first one."""
    found = list(found)
    own = [frame for frame in found if not frame.file.startswith(FLAX)]
    if not found:
        return "an unknown place"
    frame = (own or found)[0]
    return f"{_short(Path(frame.file))}:{frame.line}"


def _short(file: Path) -> Path:
    """A path from the working directory or the installed packages on, or in full."""
    for folder in (Path.cwd(), Path(FLAX).parent):
        if file.is_relative_to(folder):
            return file.relative_to(folder)
    return file
