"""Plain models as folders of weights, a description and a program, written whole or not at all.

- weights.safetensors: each variable by path; for packed layers the arrays that they hold.
- program.stablehlo: the model in eval mode as `jax.export` writes it, a function of the weights and
  the inputs.
- program.cpu.stablehlo: the same with the kernels of packed layers, where the CPU has them.
- model.json: a description for readers and other programs.
- manifest.json: sizes and checksums of the others.

None of them is pickled or names a folder of the machine that wrote it, and loading runs none of the
code that made the model.
"""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.export import Exported

from jsparse._checks import require
from jsparse._pure import Pure, by_position, examples, settings
from jsparse._slots import walk_modules
from jsparse._storage import manifest
from jsparse._storage.files import explain_full_disk, make_folders, to_disk, write_whole
from jsparse._untraced import outside_jit
from jsparse._values import check_flag, check_folder, check_is
from jsparse._versions import versions
from jsparse.export._packing import compiled
from jsparse.export._packing.csr_conv import CsrConv
from jsparse.export._packing.packed import Linked, Packed
from jsparse.export._packing.structure import features_json
from jsparse.export._saving.functional import saved
from jsparse.export._saving.stablehlo import Program, kernel_program, program
from jsparse.export._shrinking.record import Record

FORMAT, VERSION = "jsparse.model", 1
ABOUT, WEIGHTS = "model.json", "weights.safetensors"
PROGRAM, KERNELS = "program.stablehlo", "program.cpu.stablehlo"
WHOLE = Record()
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32",
    "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
"""What safetensors calls each dtype."""


@outside_jit
def save(
    folder: str | Path,
    model: nnx.Module,
    *inputs: Any,
    record: Record = WHOLE,
    shapes: Sequence[str] = (),
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Save a plain model so that `load` calls it without its class, and `restore` with it.

    The model is saved in eval mode, without its random streams.

    Args:
      folder: to make; it appears when everything is written.
      model: any NNX module without rules: from `fold`, `shrink` or `pack`.
      *inputs: arguments of a call, trees of arrays or their shapes, as for `shrink`. The first
        axis, if all have the same, is free in what `load` returns, if the model allows it
        (otherwise model.json says why not).
      record: from `shrink`, for `restore`; for several steps `first.then(second)`.
      shapes: of each input array, to say which sizes are free: `("batch, length",)`;
        for a single one a str will do.
      overwrite: whether to replace a model saved there; it stays until the new one is written.
      **options: arguments by name. Arrays become inputs, after the others and in this order; the
        rest is fixed.

    Raises:
      FileExistsError: the folder exists, and holds no saved model that may be replaced.
      ImportError: safetensors or flatbuffers is not installed.
      TypeError: no inputs, or one that is not an array; a dtype that safetensors lacks; inputs or
        outputs in containers that a file cannot name, such as named tuples.
      ValueError: a model with rules, or with state; shapes that do not fit; a record of another
        model.

    Example:
      >>> import tempfile
      >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> with tempfile.TemporaryDirectory() as place:
      ...     save(f"{place}/model", model, jnp.ones((1, 4)))
      ...     sorted(os.listdir(f"{place}/model"))
      ['manifest.json', 'model.json', 'program.stablehlo', 'weights.safetensors']
    """
    check_folder(folder=folder)
    model, given = by_position(model, inputs, options)
    with settings(record=record, overwrite=overwrite):
        check_is(Record, "a Record, from shrink", record=record)
        check_flag(overwrite=overwrite)
    require("safetensors flatbuffers", "export", "saving a model")
    import safetensors.numpy

    folder = Path(folder).absolute()
    _check_new(folder, overwrite)
    inputs, split = examples(given), saved(model)
    for path, array in split.variables.items():
        if str(array.dtype) not in DTYPES:
            raise TypeError(
                f"{path} is {array.dtype}, which safetensors lacks; it has {', '.join(DTYPES)}"
            )
    _check_record(record, split.variables)
    made = program(split, inputs, shapes)
    about = _describe(dict(walk_modules(model)), split, made, inputs, record)
    part = folder.with_name(f".{folder.name}.{os.getpid()}-{threading.get_ident()}.part")
    with make_folders(folder.parent), _unfinished(part):
        ordered = {path: np.asarray(x, order="C") for path, x in split.variables.items()}
        write_whole(part / WEIGHTS, safetensors.numpy.save(ordered))
        write_whole(part / PROGRAM, _bytes(made.exported))
        if about["packed"] and jax.default_backend() == "cpu" and compiled.load():
            about["kernels"] = compiled.sources_key()
            write_whole(part / KERNELS, _bytes(kernel_program(model, made.specs)))
        write_whole(part / ABOUT, (_indented(about, 2) + "\n").encode())
        manifest.write(part, {"format": FORMAT, "version": VERSION})
        with _replaced(folder, part) if overwrite else contextlib.nullcontext():
            try:
                os.rename(part, folder)
            except OSError:
                _check_new(folder, False)  # another process may have been faster
                raise
            to_disk(folder.parent)


@contextlib.contextmanager
def _unfinished(part: Path) -> Iterator[None]:
    """Make a folder to write in; it is removed at the end if it is still there."""
    shutil.rmtree(part, ignore_errors=True)
    try:
        with explain_full_disk(part, 0):
            part.mkdir()
        yield
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_new(folder: Path, overwrite: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise FileExistsError(
            f"{folder} exists; choose another folder, or replace the model in it with "
            "overwrite=True"
        )
    if folder.is_symlink() or not {ABOUT, WEIGHTS, manifest.MANIFEST} <= set(os.listdir(folder)):
        raise FileExistsError(
            f"{folder} holds no model that `save` wrote, so overwrite=True does not replace it; "
            "choose another folder"
        )


@contextlib.contextmanager
def _replaced(folder: Path, part: Path) -> Iterator[None]:
    """Move an old model aside while a new one takes its place; back, if that fails."""
    old = part.with_suffix(".old")
    if os.path.lexists(folder):
        os.rename(folder, old)
    try:
        yield
    except BaseException:
        if old.exists() and not os.path.lexists(folder):
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_record(record: Record, weights: Mapping[str, np.ndarray]) -> None:
    for path, cut in record.cuts.items():
        if path in weights and weights[path].shape != cut.left:
            raise ValueError(
                f"{path}: the record leads to shape {cut.left}, the model has "
                f"{weights[path].shape}; give the record that came with this model, of several "
                "steps first.then(second)"
            )


def _bytes(exported: Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except (TypeError, ValueError) as error:  # named tuples, dataclasses, keys that are numbers
        raise TypeError(
            "inputs and outputs in a file are arrays in tuples, lists and dicts with strings as "
            f"keys; give and return these ({error})"
        ) from error


def _describe(
    modules: Mapping[str, nnx.Module], split: Pure, made: Program, inputs: tuple, record: Record
) -> dict[str, Any]:
    """The content of model.json."""
    exported = made.exported
    arguments = exported.in_avals[len(split.variables) :]
    names = [jax.tree_util.keystr(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(inputs)]
    shown = zip(names, arguments, strict=True)
    return {
        "format": FORMAT,
        "version": VERSION,
        "versions": versions(),
        "platforms": list(exported.platforms),
        "inputs": [{"name": name, **array_about(aval)} for name, aval in shown],
        "outputs": [array_about(aval) for aval in exported.out_avals],
        "sizes are fixed because": made.fixed,
        "variables": {
            path: {**array_about(array), "kind": split.kinds[path].__name__}
            for path, array in split.variables.items()
        },
        "layers": {path: _layer(layer) for path, layer in modules.items()},
        "packed": packed_layers(modules),
        "record": record.to_dict(),
    }


def packed_layers(modules: Mapping[str, nnx.Module]) -> dict[str, dict[str, Any]]:
    """The settings of each packed layer among the modules of a model, by path, ready for JSON.

    Raises:
      ValueError: a layer holds more than its links, after training in which they moved.
    """
    settings: dict[str, dict[str, Any]] = {}
    owners: dict[int, str] = {}
    for path, layer in modules.items():
        if not isinstance(layer, Packed):
            continue
        if isinstance(layer, Linked) and layer.loose:
            raise ValueError(
                f"{path or 'the model'} has room for links that were dropped, or places where "
                "links may grow; save jsparse.export.trim(model)"
            )
        settings[path] = _packed_json(layer)
        if (owner := owners.setdefault(id(layer.values), path)) != path:
            settings[path]["kernel_of"] = owner
    return settings


def _packed_json(layer: Any) -> dict[str, Any]:
    sides = {"block": list(layer.block)} if hasattr(layer, "block") else {"width": layer.width}
    if isinstance(layer, CsrConv):
        sides |= layer.geometry.as_json()
    if layer.stack:
        sides["stack"] = list(layer.stack)
    return {
        "format": layer.format,
        **sides,
        "in_features": features_json(layer.in_shape),
        "out_features": features_json(layer.out_shape),
        "kept": layer.sizes.kept,
        "use_bias": layer.bias is not None,
        "dtype": None if layer.dtype is None else jnp.dtype(layer.dtype).name,
        "param_dtype": layer.floats[...].dtype.name,
    }


def array_about(array: Any) -> dict[str, Any]:
    """Shape and dtype of an array as model.json has them; a size that is free by its name."""
    shape = [n if isinstance(n, int) else str(n) for n in array.shape]
    return {"shape": shape, "dtype": str(array.dtype)}


def _layer(layer: nnx.Module) -> dict[str, Any]:
    """Class and settings of a module: those that JSON can hold, and dtypes."""
    found: dict[str, Any] = {"class": f"{type(layer).__module__}.{type(layer).__qualname__}"}
    for name, value in vars(layer).items():
        if isinstance(value, type) and issubclass(value, np.generic | jnp.generic):
            value = jnp.dtype(value)
        if isinstance(value, np.dtype):
            value = value.name
        plain = value if isinstance(value, list | tuple) else [value]
        if name[0] != "_" and all(type(one) in (bool, int, float, str) for one in plain):
            found[name] = value
    return found


def _indented(value: Any, depth: int) -> str:
    """JSON with each entry of the outer dicts on its own line."""
    if not isinstance(value, dict) or not value or not depth:
        return json.dumps(value)
    space, end = (" " * (3 - depth), " " * (2 - depth))
    lines = [f"{space}{json.dumps(k)}: {_indented(v, depth - 1)}" for k, v in value.items()]
    return "\n".join(["{", ",\n".join(lines), f"{end}}}"])
