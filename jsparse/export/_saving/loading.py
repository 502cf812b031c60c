"""Saved models: called without their class, or restored into it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.export import Exported

from jsparse._checks import require
from jsparse._paths import named
from jsparse._slots import check_module
from jsparse._storage import manifest
from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.leaves import check_fit, describe, filled, plain
from jsparse._values import check_path
from jsparse.export._packing import compiled
from jsparse.export._packing.layers import put_packed
from jsparse.export._saving.saving import (
    ABOUT,
    DTYPES,
    FORMAT,
    KERNELS,
    PROGRAM,
    VERSION,
    WEIGHTS,
)
from jsparse.export._shrinking.record import Record, rebuild

Model = TypeVar("Model", bound=nnx.Module)


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

    def __call__(self, *inputs: Any) -> Any:
        """Outputs of the saved model.

        Raises:
          ValueError: inputs of other shapes, dtypes or number.
        """
        try:
            return self.apply(self.weights, *inputs)
        except ValueError as error:
            wanted = ", ".join(f"{one['name']} {_shown(one)}" for one in self.about["inputs"])
            raise ValueError(
                f"{error}\nThe inputs are {wanted}; args[0] are the weights"
            ) from error

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
    about, weights = _read(folder)
    file = folder / (KERNELS if _has_kernels(about) else PROGRAM)
    try:
        program = jax.export.deserialize(bytearray(file.read_bytes()))
    except Exception as error:  # the checksum is right, so another jax wrote it
        raise ValueError(
            f"{file} was written by jax {about['versions']['jax']}, and jax {jax.__version__} "
            f"cannot read it ({error}); use that one, or `restore` the weights into the model's "
            "class"
        ) from error
    if any(_canonical(x.dtype) != x.dtype for x in program.in_avals):
        raise ValueError(
            f"{folder} computes in 64 bits; first call jax.config.update('jax_enable_x64', True)"
        )
    return Loaded({path: jnp.asarray(x) for path, x in weights.items()}, about, program)


def _canonical(dtype: Any) -> Any:
    """The dtype that an array gets when it is made here."""
    return jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)


def _has_kernels(about: Mapping[str, Any]) -> bool:
    """Whether the program with kernels can run here: saved, with the same kernels, compiled."""
    return (
        about.get("kernels") == compiled.sources_key()
        and jax.default_backend() == "cpu"
        and compiled.load()
    )


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
    about, weights = _read(folder)
    copy = put_packed(rebuild(model, Record.from_dict(about["record"])), about["packed"])
    state = nnx.state(copy, nnx.Not(nnx.RngState))
    leaves = named(state)
    advice = (
        "give the model as the training code makes it; one that was shrunk has to be saved with "
        "its record: save(folder, small, x, record=record)"
    )
    stored = {path: describe(array) for path, array in weights.items()}
    wanted = {path: describe(plain(path, leaf)) for path, leaf in leaves.items()}
    check_fit(stored, wanted, folder, advice)
    new = [filled(weights[path], leaf) for path, leaf in leaves.items()]
    nnx.update(copy, jax.tree.unflatten(jax.tree.structure(state), new))
    return copy


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of model.json and the weights by path, of a folder that is whole."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; give one that `jsparse.export.save` made"
        )
    _check_kind(folder)
    try:
        files = manifest.check(folder)["files"]
    except CorruptCheckpoint as error:
        raise DamagedModel(str(error)) from error
    if missing := {ABOUT, WEIGHTS, PROGRAM} - set(files):
        raise DamagedModel(f"{folder} is damaged: its manifest lacks {', '.join(sorted(missing))}")
    about = json.loads((folder / ABOUT).read_bytes())
    return about, _weights(folder / WEIGHTS, about["variables"])


def _check_kind(folder: Path) -> None:
    """Refuse a folder that holds something else, or has a later format."""
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
