"""A command run within a time limit, and its output: the log and the tables."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PATIENCE = 20.0
"""Seconds that a program gets to end after it is told to."""
DONE, FAILED, STOPPED = "done", "failed", "stopped"


class Outcome(NamedTuple):
    """How a command ended: `done`, `failed`, or `stopped` at its limit; and after how long."""

    status: str
    seconds: float


def within(
    command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str]
) -> Outcome:
    """Run a command, with all that it starts, within a time limit.

    Args:
      command: program and arguments.
      log: the file that gets what it prints; replaced.
      limit: in seconds.
      environment: variables added to those of this process.
    """
    start = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        try:
            status = DONE if process.wait(limit) == 0 else FAILED
        except subprocess.TimeoutExpired:
            status = STOPPED
        finally:
            _end(process)
    return Outcome(status, time.monotonic() - start)


def _end(process: subprocess.Popen) -> None:
    """Ends the rest of a program and of those that it started, and waits until they have ended."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        limit = time.monotonic() + PATIENCE
        while (process.poll() is None or _runs(process.pid)) and time.monotonic() < limit:
            time.sleep(0.02)


def _runs(group: int) -> bool:
    """Whether a process of a group runs; one that has ended and is not yet collected does not.

    A killed process holds its files and the memory of its card until the kernel has ended it.
    """
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, its_group = file.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "XZ":
                return True
    return False


def tables(text: str) -> list[dict[str, list]]:
    r"""The tables in a text, as `show.table` writes them: title, columns, rows of cells.

    The title is the line above, or one that ends with a colon above an empty line.

    >>> tables("sizes:\nlayer  kept\n-----  ----\nfirst   120\n")
    [{'title': 'sizes:', 'columns': ['layer', 'kept'], 'rows': [['first', '120']]}]
    """
    lines, found = text.splitlines(), []
    for n, line in enumerate(lines[1:], 1):
        if not re.fullmatch(r"-+(  -+)*", line):
            continue
        spans = [match.span() for match in re.finditer("-+", line)]
        rows = []
        for row in lines[n + 1 :]:
            cells, gaps = _cells(row, spans), [row[last : last + 2] for _, last in spans]
            filled = sum(map(bool, cells))
            if filled < min(2, len(spans)) or len(row) > len(line) or any(map(str.strip, gaps)):
                break  # some other line
            rows.append(cells)
        announced, above = ["", "", *lines[: n - 1]][-2:]
        title = above or (announced if announced.endswith(":") else "")
        found.append({"title": title, "columns": _cells(lines[n - 1], spans), "rows": rows})
    return found


def _cells(row: str, spans: list[tuple[int, int]]) -> list[str]:
    return [row[first:last].strip() for first, last in spans]
