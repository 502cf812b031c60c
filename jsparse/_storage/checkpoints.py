"""Checkpoints of a training run: whole or refused, on any number of devices and processes.

1. Every process gives its part of the arrays to Orbax, and writes its data position, in a hidden
   folder beside the checkpoints.
2. The first process forces all files to disk and lists them, with sizes and check sums, in a
   manifest that has a check sum of its own.
3. One rename makes the hidden folder a checkpoint. Older ones are removed only after it; one of the
   same step is moved aside before it, and brought back if a kill comes between.
4. Before anything is read every file is checked. A damaged checkpoint is refused, and the one
   before it is used.
"""

import operator
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from jsparse._checks import require
from jsparse._paths import named
from jsparse._storage import manifest, orbax_arrays, position
from jsparse._storage.files import CorruptCheckpoint, newest_whole, to_disk, write_whole
from jsparse._storage.leaves import check_fit, describe, filled, plain
from jsparse._storage.processes import by_first, check_seen, shared

NAME = re.compile(r"step_(\d{10})")
LAST = 2**31 - 1  # what processes can tell one another without 64 bit integers
NONE = -1  # in place of a step


class Restored(NamedTuple):
    """What `Checkpoints.restore` gives back.

    Attributes:
      step: train steps done; 0 where nothing was saved.
      tree: as it was given, with what was saved; modules are the same objects.
      data: the data position.
    """

    step: int
    tree: Any
    data: Any


class Checkpoints:
    """The checkpoints of one training run, in a folder: saved whole, checked before they are read.

    What is saved is any tree (dict, tuple, ...) of modules, optimizers, `nnx.Rngs`, arrays, typed
    keys and numbers. Of a module that is all its variables: weights, thresholds, masks, keys and
    counts of random streams; of an optimizer its moments, its step and the memory of its controls.
    A run that is killed at any moment, also while it saves, goes on from the last checkpoint as if
    nothing had happened. With several processes all of them call each method, on one shared folder.

    Args:
      folder: made where it does not exist; on a file system in which a rename is one step.
      keep: how many checkpoints stay, the newest ones.

    Raises:
      ImportError: Orbax is not installed.
      ValueError: keep below 1.

    Example:
      >>> import tempfile
      >>> import optax
      >>> from flax import nnx
      >>> from jsparse.optim import Optimizer
      >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> run = {"model": model, "optimizer": Optimizer(model, optax.adam(1e-3))}
      >>> checkpoints = Checkpoints(tempfile.mkdtemp())
      >>> step, run, epoch = checkpoints.restore(run, data=0)  # nothing is saved yet
      >>> step, epoch
      (0, 0)
      >>> checkpoints.save(100, run, data=3)
      >>> step, run, epoch = checkpoints.restore(run)
      >>> step, epoch
      (100, 3)
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is the number of checkpoints that stay, 1 or more; got {keep}")
        require("orbax-checkpoint", "checkpoint", "a checkpoint")
        self.folder = Path(folder).absolute()
        self.keep = keep
        self._refused: set[int] = set()

    def steps(self) -> list[int]:
        """The steps that were saved, oldest first; whether they can be read is not checked."""
        found = (NAME.fullmatch(path.name) for path in self.folder.glob("step_*"))
        return sorted(int(name[1]) for name in found if name)

    def save(self, step: int, tree: Any, data: Any = None) -> None:
        """Save a checkpoint, and then remove those that are too many, later or damaged.

        Args:
          step: train steps done, below 2**31.
          tree: modules, arrays, typed keys and numbers.
          data: where the data goes on, of this process: bytes, or what JSON can hold unchanged, as
            from `get_state()` of a Grain iterator.

        Raises:
          TypeError: the tree or data hold something that cannot be saved.
          ValueError: a step out of range; no numbers; two leaves with one path; with several
            processes, a leaf that each has for itself and that differs.
          OSError: the disk is full, or the folder is not the same for all processes.
        """
        step = operator.index(step)
        if not 0 <= step <= LAST:
            raise ValueError(f"step is the number of train steps done, 0 to {LAST}; got {step}")
        leaves = named(_states(tree))
        values = shared({name: plain(name, leaf) for name, leaf in leaves.items()})
        if not any(value.size for value in values.values()):
            raise ValueError("the tree holds no numbers; give the model, the optimizer, ...")
        name, content = position.encode(data)
        part = self.folder / f".{self._path(step).name}.part"
        by_first(lambda: self._clear(part))
        check_seen(part)
        write_whole(part / "data" / name, content)
        orbax_arrays.write(part / "arrays", values)
        kinds = {name: describe(leaf) for name, leaf in leaves.items()}
        by_first(lambda: self._finish(part, step, kinds))

    def restore(self, like: Any, data: Any = None) -> Restored:
        """Read the newest checkpoint that is whole; a warning names those that are refused.

        Args:
          like: a tree as it was saved. Modules in it are filled in place; other leaves are new in
            the tree that comes back. Arrays lie where those of `like` do, whatever the number of
            devices that saved them.
          data: the data position to give back where nothing was saved.

        Returns:
          (step, tree, data); (0, like, data) where nothing was saved.

        Raises:
          CorruptCheckpoint: there are checkpoints and all are damaged.
          ValueError: paths, shapes or types are not those of `like`, with a list of what differs;
            or the data positions are those of another number of processes.
          OSError: the folder is not the same for all processes.
        """
        step = by_first(self._newest)
        if step == NONE:
            return Restored(0, like, data)
        path = self._path(step)
        check_seen(path)
        facts = _facts(path, manifest.read(path))
        states = _states(like)
        leaves = named(states)
        kinds = {name: describe(leaf) for name, leaf in leaves.items()}
        advice = f"restore into the model and optimizer that were saved, or move {path} away"
        check_fit(facts["leaves"], kinds, path, advice)
        data = position.read(path / "data", facts["processes"])
        values = orbax_arrays.read(path / "arrays", leaves)
        new = [filled(values[name], leaf) for name, leaf in leaves.items()]
        states = jax.tree.unflatten(jax.tree.structure(states), new)
        return Restored(step, jax.tree.map(_put, like, states, is_leaf=_is_module), data)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:010d}"

    def _newest(self) -> int:
        """The newest step that is whole; remembers which are not."""
        self._bring_back()
        found = newest_whole(
            [self._path(step) for step in self.steps()],
            _checked,
            lambda line: warnings.warn(line, stacklevel=6),  # where `restore` is called
            f"delete {self.folder} to begin anew, or choose another folder",
        )
        step = NONE if found is None else found[1]["step"]
        self._refused = {later for later in self.steps() if later > step}
        return step

    def _clear(self, part: Path) -> int:
        """Remove what a kill left half done, and make room for the next checkpoint."""
        self._bring_back()
        for path in self.folder.glob(".step_*"):
            _remove(path)
        (part / "data").mkdir(parents=True)
        return NONE

    def _finish(self, part: Path, step: int, kinds: Mapping[str, str]) -> int:
        """Write the manifest, put the checkpoint in place, remove others."""
        for path in [part, *part.rglob("*")]:
            to_disk(path)
        facts = {"step": step, "processes": jax.process_count(), "leaves": dict(kinds)}
        manifest.write(part, facts)
        old = _hide(self._path(step), "old")  # where the step was saved before
        os.rename(part, self._path(step))
        to_disk(self.folder)
        _remove(old)
        self._refused.discard(step)
        whole = [s for s in self.steps() if s <= step and s not in self._refused]
        for other in self.steps():  # later ones come from a run that was begun anew
            if other not in whole[-self.keep :]:
                _remove(_hide(self._path(other), "gone"))
        return NONE

    def _bring_back(self) -> None:
        """Undo the move of a checkpoint that was to be saved again and was not."""
        for old in self.folder.glob(".step_*.old"):
            path = self.folder / old.name.removeprefix(".").removesuffix(".old")
            if not os.path.lexists(path):
                os.rename(old, path)


def _checked(path: Path) -> dict[str, Any]:
    """What a checkpoint's manifest says, after a look at every file."""
    return _facts(path, manifest.check(path))


def _facts(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """A manifest, if it has the fields of a checkpoint.

    Raises:
      CorruptCheckpoint: one is missing or of another type.
    """
    if f"step_{manifest.field(path, found, 'step', int):010d}" != path.name:
        raise CorruptCheckpoint(f"{path} is damaged: its manifest is that of step {found['step']}")
    manifest.field(path, found, "processes", int)
    leaves = manifest.field(path, found, "leaves", dict)
    for name in leaves:
        manifest.field(path, leaves, name, str)
    return found


def _hide(path: Path, why: str) -> Path:
    """Give a checkpoint, if it is there, a name under which it no longer counts."""
    hidden = path.with_name(f".{path.name}.{why}")
    if os.path.lexists(path):
        os.rename(path, hidden)
    return hidden


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_module(leaf: Any) -> bool:
    """Whether it is a module, an optimizer, random streams: what `nnx.update` fills in place."""
    return isinstance(leaf, nnx.Pytree)


def _states(tree: Any) -> Any:
    """A tree with the state of each module in its place."""
    return jax.tree.map(lambda x: nnx.state(x) if _is_module(x) else x, tree, is_leaf=_is_module)


def _put(old: Any, new: Any) -> Any:
    """New leaves in the place of old ones: in a module itself."""
    if not _is_module(old):
        return new
    nnx.update(old, new)
    return old
