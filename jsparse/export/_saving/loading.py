"""Saved models: called without their class, or restored into it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.export import Exported

from jsparse._checks import require
from jsparse._paths import map_by_path, named, naming
from jsparse._slots import check_module
from jsparse._storage import manifest
from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.leaves import check_fit, describe, filled, plain
from jsparse._untraced import outside_jit
from jsparse._values import check_path
from jsparse.export._packing import compiled
from jsparse.export._packing.layers import put_packed
from jsparse.export._saving.about import check_packed_arrays, read_about
from jsparse.export._saving.saving import (
    ABOUT,
    DTYPES,
    FORMAT,
    KERNELS,
    PROGRAM,
    VERSION,
    WEIGHTS,
    array_about,
)
from jsparse.export._shrinking.record import Record, rebuild

Model = TypeVar("Model", bound=nnx.Module)
CALLS = re.compile(rb"\w*python\w*callback\w*")
"""Targets of custom calls that hold an address in the process that wrote them."""


class DamagedModel(RuntimeError):
    """A saved model is incomplete or changed."""


class Loaded:
    """A saved model: a function, compiled on first use, with its weights.

    Attributes:
      weights: by path, as they were saved.
      about: the content of model.json: inputs, outputs, variables, layers, versions.
      program: the function (weights, *inputs) -> output, as `jax.export` reads it.

    `loaded(*inputs)` calls it on the weights, `loaded.apply(weights, *inputs)` on others; both may
    stand inside `jax.jit`. For gradients, and under `jax.vmap`, `restore` the model.
    """

    def __init__(self, weights: dict[str, jax.Array], about: Mapping[str, Any], program: Exported):
        self.weights, self.about, self.program = weights, about, program
        self.apply = jax.jit(program.call)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Outputs of the saved model.

        Raises:
          TypeError: inputs by name.
          ValueError: inputs of other shapes, dtypes or number; an empty batch.
        """
        if named:
            raise TypeError(
                f"a saved model takes its inputs by position, {self._wanted()}, those that save "
                f"was given by name after the others; got {', '.join(named)} by name. Arguments "
                "without arrays are part of the program"
            )
        try:
            return self.apply(self.weights, *inputs)
        except ValueError as error:
            empty = any(0 in np.shape(leaf) for leaf in jax.tree.leaves(inputs))
            least = ". A free size is at least 1: an empty batch needs no call" if empty else ""
            raise ValueError(
                f"{error}\nThe inputs are {self._wanted()}; args[0] are the weights{least}"
            ) from error

    def _wanted(self) -> str:
        return ", ".join(f"{one['name']} {_shown(one)}" for one in self.about["inputs"])

    def __repr__(self) -> str:
        sides = (", ".join(map(_shown, self.about[side])) for side in ("inputs", "outputs"))
        return f"Loaded({' -> '.join(sides)}; {len(self.weights)} variables)"


def _shown(array: Mapping[str, Any]) -> str:
    return f"{array['dtype']}[{', '.join(map(str, array['shape']))}]"


def load(folder: str | Path) -> Loaded:
    """Load a saved model as a function, without the code that made the model.

    Every file is checked before it is read.

    Args:
      folder: from `save`.

    Returns:
      A callable with the weights and the description.

    Raises:
      DamagedModel: a file is missing, cut, changed or of another model.
      FileNotFoundError: there is no such folder.
      ImportError: safetensors or flatbuffers is not installed.
      ValueError: the folder holds something else, was written by a newer jsparse or jax, or needs
        64 bits, which are off.

    Example:
      >>> import tempfile
      >>> from jsparse.export._saving.saving import save
      >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> with tempfile.TemporaryDirectory() as place:
      ...     save(f"{place}/model", model, jnp.ones((1, 4)))
      ...     loaded = load(f"{place}/model")
      >>> loaded
      Loaded(float32[batch, 4] -> float32[batch, 3]; 2 variables)
      >>> loaded(jnp.ones((5, 4))).shape
      (5, 3)
    """
    check_path(folder=folder)
    require("safetensors flatbuffers", "export", "loading a model")
    folder = Path(folder).absolute()
    about, _, weights, files = _read(folder)
    same = about.get("kernels") == compiled.sources_key()
    kernels = same and jax.default_backend() == "cpu" and compiled.load()
    file = folder / (KERNELS if kernels else PROGRAM)
    if file.name not in files:
        raise DamagedModel(f"{folder} is damaged: {file.name} is missing")
    content = file.read_bytes()
    try:
        program = jax.export.deserialize(bytearray(content))
    except Exception as error:  # the checksum is right, so another jax wrote it
        raise ValueError(
            f"{file} was written by jax {about['versions']['jax']}, and jax {jax.__version__} "
            f"cannot read it ({error}); use that one, or `restore` the weights into the model's "
            "class"
        ) from error
    _check_program(program, about, f"{folder} is damaged: {file.name}")
    here = lambda dtype: jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    if any(here(x.dtype) != x.dtype for x in program.in_avals):
        raise ValueError(
            f"{folder} computes in 64 bits; first call jax.config.update('jax_enable_x64', True)"
        )
    return Loaded({path: jnp.asarray(x) for path, x in weights.items()}, about, program)


def _check_program(program: Exported, about: Mapping[str, Any], where: str) -> None:
    """Refuse a program of another model, and one that would run code of this process."""
    if calls := CALLS.search(program.mlir_module_serialized):
        raise DamagedModel(f"{where} calls {calls[0].decode()}: code of the process that wrote it")
    found, results = (list(map(array_about, x)) for x in (program.in_avals, program.out_avals))
    shapes = [one["shape"] for _, one in sorted(about["variables"].items())]
    count = len(shapes)
    kinds = lambda arrays: [(one["shape"], one["dtype"]) for one in arrays]
    if not (
        [one["shape"] for one in found[:count]] == shapes  # of 64 bits some have 32 here
        and kinds(found[count:]) == kinds(about["inputs"])
        and kinds(results) == kinds(about["outputs"])
    ):
        raise DamagedModel(f"{where} does not take and return what {ABOUT} says")


@outside_jit
def restore(folder: str | Path, model: Model) -> Model:
    """Restore a saved model into its own class: smaller or packed, as it was.

    Args:
      folder: from `save`.
      model: as the training code makes it, of the original size; not changed.

    Returns:
      A copy without rules, cut as the saved record says, with the packed layers and the saved
      values, on the devices of the model's own. Random streams are those of the model.

    Raises:
      DamagedModel, FileNotFoundError, ImportError: as for `load`.
      ValueError: names, shapes or dtypes are not those of the model, with a list of what differs.

    Example:
      >>> import tempfile
      >>> from jsparse.export._saving.saving import save
      >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> with tempfile.TemporaryDirectory() as place:
      ...     save(f"{place}/model", model, jnp.ones((1, 4)))
      ...     same = restore(f"{place}/model", nnx.Linear(4, 3, rngs=nnx.Rngs(1)))
      >>> bool((same.kernel[...] == model.kernel[...]).all())
      True
    """
    check_path(folder=folder)
    check_module(model)
    require("safetensors", "export", "restoring a model")
    folder = Path(folder).absolute()
    about, record, weights, _ = _read(folder)
    with naming(str(folder)):
        copy = put_packed(rebuild(model, record), about["packed"])
    state = nnx.state(copy, nnx.Not(nnx.RngState))
    advice = (
        "give the model as the training code makes it; one that was shrunk has to be saved with "
        "its record: save(folder, small, x, record=record)"
    )
    stored = {path: describe(array) for path, array in weights.items()}
    wanted = {path: describe(plain(path, leaf)) for path, leaf in named(state).items()}
    check_fit(stored, wanted, folder, advice)
    nnx.update(copy, map_by_path(lambda path, leaf: filled(weights[path], leaf), state))
    return copy


def _read(folder: Path) -> tuple[dict[str, Any], Record, dict[str, np.ndarray], set[str]]:
    """The description in a folder, the record, the weights and the names of files, all checked."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; give one that `jsparse.export.save` made"
        )
    try:
        facts = manifest.read(folder)
    except CorruptCheckpoint as error:
        raise DamagedModel(f"{error}; or `jsparse.export.save` did not write it") from error
    if facts.get("format") != FORMAT:
        raise ValueError(f"{folder} is not a model that `jsparse.export.save` wrote")
    if facts.get("version") != VERSION:
        raise ValueError(
            f"{folder} has version {facts.get('version')} of the format, and this jsparse reads "
            f"{VERSION}; update jsparse"
        )
    where = f"{folder} is damaged"
    try:
        files = set(manifest.check(folder)["files"])
        if missing := {ABOUT, WEIGHTS, PROGRAM} - files:
            raise CorruptCheckpoint(f"{where}: its manifest lacks {', '.join(sorted(missing))}")
        about, record = read_about((folder / ABOUT).read_bytes(), f"{where}: {ABOUT}")
        weights = _weights(folder / WEIGHTS, about["variables"])
        check_packed_arrays(about["packed"], weights, f"{where}: {WEIGHTS}")
    except CorruptCheckpoint as error:
        raise DamagedModel(str(error)) from error
    return about, record, weights, files


def _weights(path: Path, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a file, which must be those that model.json describes."""
    from safetensors import SafetensorError, deserialize

    try:
        found = dict(deserialize(path.read_bytes()))
    except SafetensorError as error:
        raise DamagedModel(f"{path} is damaged: {error}") from error
    there = {name: (entry["dtype"], list(entry["shape"])) for name, entry in found.items()}
    told = {name: (DTYPES.get(v["dtype"]), v["shape"]) for name, v in variables.items()}
    if there != told:
        raise DamagedModel(f"{path} does not hold the variables that {ABOUT} names")
    return {
        name: np.frombuffer(found[name]["data"], jnp.dtype(v["dtype"])).reshape(v["shape"])
        for name, v in variables.items()
    }
