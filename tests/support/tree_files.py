"""Files of `jsparse._storage.tree_file` with other content, whose zip checksums are right."""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from jsparse._storage.tree_file import NOTES, Stored, read


def rewritten(
    content: bytes,
    change: Callable[[dict], dict] = lambda notes: notes,
    parts: dict[str, bytes | None] | None = None,
) -> bytes:
    """The file with other notes, and other parts; None leaves one out."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        there: dict = {name: archive.read(name) for name in archive.namelist()}
    there[NOTES] = json.dumps(change(json.loads(there[NOTES]))).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in (there | (parts or {})).items():
            if part is not None:
                archive.writestr(name, part)
    return buffer.getvalue()


def unpacked(content: bytes) -> Stored:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree.npz"
        path.write_bytes(content)
        return read(path)
