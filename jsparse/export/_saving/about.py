"""model.json, checked field by field, with errors that name the file and the field."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jsparse._storage.checked_json import check_fields, parse
from jsparse._storage.files import CorruptCheckpoint
from jsparse.export._packing.csr import Csr
from jsparse.export._packing.csr_conv import CsrConv
from jsparse.export._packing.structure import features_in, sizes_of
from jsparse.export._packing.windows import geometry_in
from jsparse.export._shrinking.record import Record

FIELDS = {
    "versions": dict[str, object], "inputs": list[object], "outputs": list[object],
    "variables": dict[str, object], "layers": dict[str, object], "packed": dict[str, object],
    "record": dict[str, object],
}  # fmt: skip
VARIABLE = {"shape": list[int], "dtype": str, "kind": str}
OUTPUT = {"shape": list[int | str], "dtype": str}
INPUT = {"name": str, **OUTPUT}
PACKED = {
    "format": str, "in_features": int | list[int], "out_features": int | list[int], "kept": int,
    "use_bias": bool, "dtype": str | None, "param_dtype": str,
}  # fmt: skip
WINDOW = {
    "kernel_size": list[int], "strides": list[int], "padding": str | list[list[int]],
    "kernel_dilation": list[int],
}  # fmt: skip
OF_FORMAT = {
    "csr": {"width": int}, "csr conv": {"width": int, **WINDOW}, "csr int8": {"width": int},
    "blocks": {"block": tuple[int, int]}, "blocks int8": {"block": tuple[int, int]},
}  # fmt: skip
"""What the settings of a packed layer are, besides `PACKED`."""
OPTIONAL = {"kernel_of": str}
"""Of some layers: the path of an earlier layer whose kernel it shares."""
STACK = {"stack": list[int]}
"""Likewise, in the format "csr": the axes of a stack."""


def read_about(content: bytes, where: str) -> tuple[dict[str, Any], Record]:
    """The description of a saved model, and the record in it; errors begin with `where`.

    Raises:
      CorruptCheckpoint: it is not JSON, or a field is missing or not as expected.
    """
    about = parse(content, where)
    check_fields(about, FIELDS, where)
    check_fields(about["versions"], {"jax": str}, f"{where}: versions")
    if not isinstance(about.get("kernels", ""), str):
        raise CorruptCheckpoint(f"{where}: kernels is {about['kernels']!r:.80}, expected str")
    for side, fields in (("inputs", INPUT), ("outputs", OUTPUT)):
        for n, one in enumerate(about[side]):
            check_fields(one, fields, f"{where}: {side}[{n}]")
    for path, one in about["variables"].items():
        check_fields(one, VARIABLE, f"{where}: variables, {path!r:.80}")
    for path, one in about["packed"].items():
        at = f"{where}: packed, {path!r:.80}"
        _check_packed_settings(one, at)
        if (owner := one.get("kernel_of", path)) not in about["packed"]:
            raise CorruptCheckpoint(
                f"{at}: kernel_of is {owner!r:.80}, expected the path of a packed layer"
            )
    try:
        return about, Record.from_dict(about["record"])
    except ValueError as error:
        raise CorruptCheckpoint(f"{where}: record: {error}") from error


def _check_packed_settings(settings: Any, where: str) -> None:
    check_fields(settings, PACKED, where)
    if settings["format"] not in OF_FORMAT:
        formats = " or ".join(map(repr, OF_FORMAT))
        raise CorruptCheckpoint(
            f"{where}: format is {settings['format']!r:.80}, expected {formats}"
        )
    some = OPTIONAL | (STACK if settings["format"] == Csr.format else {})
    own = OF_FORMAT[settings["format"]] | {name: some[name] for name in some if name in settings}
    check_fields(settings, own, where)
    if other := settings.keys() - PACKED.keys() - own.keys():
        raise CorruptCheckpoint(f"{where}: {settings['format']!r} has no field {min(other)!r:.80}")
    if not settings.get("stack", [1]):
        raise CorruptCheckpoint(f"{where}: stack is [], expected the axes of a stack")
    for name in ("dtype", "param_dtype"):
        if settings[name] is not None and not _is_floating(settings[name]):
            raise CorruptCheckpoint(
                f"{where}: {name} is {settings[name]!r:.80}, expected a floating type"
            )


def _is_floating(name: Any) -> bool:
    kind: Any = vars(jnp).get(name) if isinstance(name, str) else None
    return isinstance(kind, type(jnp.float32)) and jnp.issubdtype(kind, jnp.floating)


def check_packed_arrays(
    packed: Mapping[str, Mapping[str, Any]], weights: Mapping[str, Any], where: str
) -> None:
    """Refuse packed layers whose arrays in the file are not what their settings say."""
    for path, settings in packed.items():
        own = _arrays_of(settings.get("kernel_of", path), weights) | _arrays_of(path, weights)
        kind = settings["param_dtype"]
        bias = (*settings.get("stack", ()), *features_in(settings)[1])
        try:
            if settings["format"] == CsrConv.format:
                geometry_in(settings)
            sizes_of(settings).check_arrays(own)
            floats = "scale" if settings["format"].endswith("int8") else "values"
            if str(own[floats].dtype) != kind:
                raise ValueError(f"{floats} are {own[floats].dtype}, expected {kind}")
            if settings["use_bias"] and ("bias" not in own or own["bias"].shape != bias):
                raise ValueError(f"bias is missing, or its shape is not {list(bias)}")
        except ValueError as error:
            raise CorruptCheckpoint(f"{where}: {path or 'the model'}: {error}") from error


def _arrays_of(path: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of the layer at a path, by their names in it."""
    prefix = f"{path}/" if path else ""
    return {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}
