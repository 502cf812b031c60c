"""Reads the folder of a run: what it holds, and what is missing or damaged."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jsparse._storage.checked_json import check_fields
from jsparse._storage.files import CorruptCheckpoint
from jsparse._values import is_number
from jsparse.report._about import check_about
from jsparse.report._run import Run
from jsparse.report._saving import FORMAT, VERSION

SAVE = "jsparse.report.save(model, folder, x)"
TABLE = {"title": str, "columns": list[str], "rows": list[list[str]]}
PNG = b"\x89PNG\r\n\x1a\n"


def read_run(path: str | Path) -> Run:
    """Read the folder of a run."""
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder; pass the folder of a run")
    if not (path / "log.jsonl").is_file() and not (path / "model.json").is_file():
        inside = sorted(p.parent.name for p in path.glob("*/log.jsonl"))
        remedy = f"pass one of its folders: {', '.join(inside)}" if inside else f"write one: {SAVE}"
        raise FileNotFoundError(f"{path} has neither log.jsonl nor model.json; {remedy}")
    missing: list[str] = []
    settings, versions = _settings(path / "settings.json", missing)
    rows = _rows(path / "log.jsonl", missing)
    model = _model(path / "model.json", missing)
    return Run(
        path=path,
        settings=settings,
        versions=versions or ([model["versions"]] if model else []),
        rows=rows,
        model=model,
        masks=_masks(path / "masks.npz", model, missing),
        tables=_tables(path / "tables.json"),
        pictures={one.stem: _png(one) for one in sorted(path.glob("*.png")) if one.is_file()},
        missing=missing,
    )


def _json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object; {remedy}")
    return content


def _settings(path: Path, missing: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not path.is_file():
        missing.append("settings: there is no settings.json; write one, any JSON object")
        return {}, []
    content = _json(path, "write it again, or delete it for a page without settings")
    if isinstance(content.get("held"), dict) and isinstance(content.get("free"), dict):
        environments = content.get("environments") or ()
        return content["held"] | content["free"], [e for e in environments if isinstance(e, dict)]
    return content, []


def _rows(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        missing.append("curves: there is no log.jsonl; write one JSON object per line, with a step")
        return []
    lines = path.read_bytes().split(b"\n")
    rows = []
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            if n == len(lines):  # the run was killed in the middle of it
                missing.append("the last row of log.jsonl: it is cut off")
                continue
            raise ValueError(
                f"{path}, line {n} is not JSON ({line[:40]!r}); delete this line"
            ) from error
        step = row.get("step") if isinstance(row, dict) else None
        if not is_number(step) or not math.isfinite(step):  # type: ignore[arg-type]
            raise ValueError(
                f'{path}, line {n} has no number "step" ({line[:40]!r}); give each row the step or '
                "epoch it was written after"
            )
        rows.append(row)
    if not rows:
        missing.append("curves: log.jsonl has no row yet")
    return rows


def _model(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.is_file():
        missing.append(
            f"masks, sizes, FLOPs and latency: there is no model.json; at the end call {SAVE}"
        )
        return {}
    content = _json(path, f"write it again with {SAVE}")
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ValueError(
            f"{path} is not a file of {SAVE} in its version {VERSION} (it says "
            f"{content.get('format')!r}, {content.get('version')!r}); write it again"
        )
    try:
        check_about(content, str(path))
    except CorruptCheckpoint as error:
        raise ValueError(f"{error}; write it again with {SAVE}") from error
    if "costs" not in content:
        missing.append(f"FLOPs: model.json was written without example inputs; call {SAVE}")
    if not content.get("forms"):
        missing.append(
            "latency: no form of the model was timed; give them to save: "
            'forms={"folded": jsparse.fold(model)}'
        )
    return content


def _masks(path: Path, model: dict[str, Any], missing: list[str]) -> dict[str, np.ndarray]:
    if not model or not model["layers"]:
        return {}
    if not path.is_file():
        missing.append(f"pictures of the masks: there is no masks.npz; write it with {SAVE}")
        return {}
    masks = {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            for name, layer in model["layers"].items():
                bits = file[f"masks/{name}"]
                if bits.size != -(-layer["size"] // 8):
                    raise ValueError(f"{name} has a different size in model.json")
                flat = np.unpackbits(bits, count=layer["size"]).astype(bool)
                masks[name] = flat.reshape(layer["shape"])
                if masks[name].sum() != layer["kept"]:
                    raise ValueError(f"{name} keeps a different number in model.json")
    except Exception as error:  # a flipped byte makes zipfile raise nearly anything
        raise ValueError(
            f"{path} is damaged or of another run ({error}); write it again with {SAVE}, or delete "
            "it for a page without pictures"
        ) from error
    return masks


def _tables(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    remedy = "write a list of objects with title, columns and rows, all texts, or delete it"
    try:
        tables = json.loads(path.read_bytes())
        for n, table in enumerate(tables if isinstance(tables, list) else [tables]):
            check_fields(table, TABLE, f"table {n + 1}")
            if any(len(row) != len(table["columns"]) for row in table["rows"]):
                raise ValueError(f"table {n + 1} has a row with more or fewer cells than columns")
    except (CorruptCheckpoint, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(tables, list):
        raise ValueError(f"{path} holds an object; {remedy}")
    return tables


def _png(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f"{path} is not a PNG file; write it again, or delete it")
    return content


def _integer(digits: str) -> float:
    """An integer; infinite where no float is as large."""
    return int(digits) if len(digits) < 300 else float(digits)
