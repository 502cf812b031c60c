"""model.json of a run, checked field by field, with errors that name the field."""

import math
from collections.abc import Iterator
from typing import Any

from jsparse._storage.checked_json import check_fields
from jsparse._storage.files import CorruptCheckpoint

FIELDS = {
    "layers": dict[str, object], "total": dict[str, object], "dense": int, "learned": int,
    "versions": dict[str, object],
}  # fmt: skip
NUMBER = int | float
TOTAL = {"kept": int, "size": int, "density": NUMBER}
LAYER = {"shape": list[int], "rule": str, **TOTAL, "axes": dict[str, object]}
AXES = {"stack": int, "inputs": list[int], "outputs": list[int]}
MEASURED = {"inputs": list[object], "costs": dict[str, object], "forms": list[object]}
"""Fields that exist if the model was saved with example inputs."""
COSTS = {"total": dict[str, object]}
COST: dict[str, Any] = dict.fromkeys(("flops", "dense_flops", "bytes", "dense_bytes"), NUMBER)
FORM = {
    "name": str, "parameters": int, "bytes": int, "flops": NUMBER, "seconds": dict[str, object],
}  # fmt: skip
SECONDS = {**dict.fromkeys(("median", "low", "high"), NUMBER), "rounds": int}
MOST = 1e30
"""No size, count or time is larger."""


def check_about(content: Any, where: str) -> None:
    """Refuse the description of a model in which a field that a page reads is missing or absurd."""
    check_fields(content, FIELDS, where)
    check_fields(content, {name: MEASURED[name] for name in MEASURED if name in content}, where)
    for name in ("layers", "total", "dense", "learned", *MEASURED):
        for value in _numbers(content.get(name, ())):
            if not 0 <= value <= MOST:
                raise CorruptCheckpoint(f"{where}: {name} holds {value!r:.40}, which is absurd")
    for path, layer in content["layers"].items():
        _check_layer(layer, f"{where}: layers, {path!r:.80}")
    if content["layers"] or content["total"]:
        _check_part(content["total"], TOTAL, f"{where}: total")
    for n, one in enumerate(content.get("inputs", ())):
        check_fields(one, {"shape": list[int]}, f"{where}: inputs[{n}]")
    if "costs" in content:
        check_fields(content["costs"], COSTS, f"{where}: costs")
        check_fields(content["costs"]["total"], COST, f"{where}: costs, total")
    for n, form in enumerate(content.get("forms", ())):
        check_fields(form, FORM, f"{where}: forms[{n}]")
        check_fields(form["seconds"], SECONDS, f"{where}: forms[{n}], seconds")
        if not form["seconds"]["median"]:
            raise CorruptCheckpoint(f"{where}: forms[{n}], seconds: median is 0")
    if content.get("forms") and "device" not in content["versions"]:
        raise CorruptCheckpoint(f"{where}: versions: the field device is missing")


def _check_part(part: Any, fields: dict[str, Any], where: str) -> None:
    check_fields(part, fields, where)
    if part["kept"] > part["size"] or part["density"] > 1:
        raise CorruptCheckpoint(f"{where}: more weights are kept than exist")


def _check_layer(layer: Any, where: str) -> None:
    _check_part(layer, LAYER, where)
    shape, axes = layer["shape"], layer["axes"]
    if math.prod(shape) != layer["size"]:
        raise CorruptCheckpoint(f"{where}: size is {layer['size']}, the shape is {shape!r:.80}")
    check_fields(axes, AXES, f"{where}: axes")
    stack = min(axes["stack"], len(shape) + 1)
    named = [*range(stack), *axes["inputs"], *axes["outputs"]]
    if len(set(named)) < len(named) or not set(named) <= set(range(len(shape))):
        raise CorruptCheckpoint(f"{where}: axes are not those of the shape {shape!r:.80}")


def _numbers(value: Any) -> Iterator[int | float]:
    """Every number in the JSON."""
    if isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)
    elif isinstance(value, int | float):
        yield value
