"""Checkpoints of a training run: whole or refused, on any number of devices and processes.

1. Every process writes its shards of the arrays, by Orbax, and its data position to a hidden folder
   beside the checkpoints.
2. The first process forces all files to disk and lists them, with sizes and checksums, in a
   manifest that has its own checksum.
3. One rename turns the hidden folder into a checkpoint. Older ones are removed only afterwards; one
   of the same step is first moved aside, and restored if the process is killed in between.
4. Every file is checked before anything is read. A damaged checkpoint is refused and the previous
   one is used.
"""

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.core
from flax import nnx

from jsparse._checks import require
from jsparse._paths import map_by_path, named
from jsparse._storage import manifest, orbax_arrays, position
from jsparse._storage.files import CorruptCheckpoint, explain_full_disk, to_disk, write_whole
from jsparse._storage.leaves import check_fit, describe, filled, plain
from jsparse._storage.processes import by_first, check_seen, shared
from jsparse._storage.writers import abandon, claim
from jsparse._values import check_folder, check_whole, is_whole, known, shown

NAME = re.compile(r"step_(\d{10})")
LAST = 2**31 - 1  # the largest number that processes can exchange without 64-bit integers
NONE = -1  # no step
NOTHING = ("float32[0]", "float64[0]")  # what an optimizer without controls had up to version 0.1
FIELDS = {"step": int, "processes": int, "leaves": dict[str, str]}  # in the manifest


class Restored(NamedTuple):
    """The result of `Checkpoints.restore`.

    Attributes:
      step: train steps done; 0 if nothing was saved.
      tree: the given tree with the saved values; modules are the same objects.
      data: the data position.
    """

    step: int
    tree: Any
    data: Any


class Checkpoints:
    """The checkpoints of one training run, in a folder: saved whole, checked before being read.

    They hold any tree (dict, tuple, ...) of modules, optimizers, `nnx.Rngs`, arrays, typed keys and
    numbers. All variables of a module are saved: weights, thresholds, masks, and the keys and
    counts of random streams; for an optimizer its moments, its step and the state of its controls.
    A run that is killed at any moment, even while saving, resumes from the last checkpoint as if
    nothing had happened. While an object that has saved exists, no other process can save to its
    folder; others may read it. With several processes, all of them call each method, on a shared
    folder.

    Args:
      folder: created if it does not exist; on a file system where a rename is atomic.
      keep: the number of checkpoints to keep, the newest ones.

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
      >>> step, run, epoch = checkpoints.restore(run, data=0)  # nothing has been saved yet
      >>> step, epoch
      (0, 0)
      >>> checkpoints.save(100, run, data=3)
      >>> step, run, epoch = checkpoints.restore(run)
      >>> step, epoch
      (100, 3)
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        check_folder(folder=folder)
        check_whole(keep=keep)
        require("orbax-checkpoint", "checkpoint", "a checkpoint")
        self.folder = Path(folder).absolute()
        self.keep = keep
        self._refused: set[int] = set()

    def steps(self) -> list[int]:
        """The steps that were saved, oldest first, without checking that they can be read."""
        found = (NAME.fullmatch(path.name) for path in self.folder.glob("step_*"))
        return sorted(int(name[1]) for name in found if name)

    def save(self, step: int, tree: Any, data: Any = None) -> None:
        """Save a checkpoint, then remove surplus, later and damaged ones.

        Args:
          step: train steps done, below 2**31.
          tree: modules, arrays, typed keys and numbers.
          data: the data-iterator position of this process: bytes, or what JSON can hold unchanged,
            such as `get_state()` of a Grain iterator.

        Raises:
          TypeError: the tree or data hold something that cannot be saved.
          ValueError: the step is out of range; the tree holds no numbers; two leaves have the same
            path; with several processes, a leaf that each has whole differs between them.
          BlockingIOError: another process saves to the folder.
          OSError: the disk is full, or the processes do not share the folder.
        """
        step = known(step=step)["step"]  # an optimizer's own is an array
        if not is_whole(step) or not 0 <= step <= LAST:
            raise ValueError(
                f"step is the whole number of train steps done, 0 to {LAST}; got {shown(step)}"
            )
        step = int(step)
        leaves = named(_states(tree))
        for name, leaf in leaves.items():
            if isinstance(leaf, jax.core.Tracer):
                raise TypeError(f"tree holds {name} while it is traced; save outside jax.jit")
        values = shared({name: plain(name, leaf) for name, leaf in leaves.items()})
        if not any(value.size for value in values.values()):
            raise ValueError("the tree holds no numbers; give the model, the optimizer, ...")
        orbax_arrays.check_kinds(values)
        name, content = position.encode(data)
        part = self.folder / f".{self._path(step).name}.part"
        try:
            by_first(lambda: self._clear(part))
            check_seen(part)
            write_whole(part / name, content)
            orbax_arrays.write(part / "arrays", values)
            kinds = {name: describe(leaf) for name, leaf in leaves.items()}
            by_first(lambda: self._finish(part, step, kinds))
        except OSError as error:
            blocked = isinstance(error, BlockingIOError)  # another process writes here
            if not blocked and jax.process_count() == 1:  # other processes may still be writing
                shutil.rmtree(part, ignore_errors=True)
                abandon(self.folder)
            raise

    def restore(self, like: Any, data: Any = None) -> Restored:
        """Read the newest whole checkpoint; a warning names each damaged one that is skipped.

        Args:
          like: a tree like the saved one. Its modules are filled in place; other leaves are new
            in the returned tree. Arrays get the sharding of those in `like`, whatever the number
            of devices that saved them.
          data: the data position to return if nothing was saved.

        Returns:
          (step, tree, data); (0, like, data) if nothing was saved.

        Raises:
          CorruptCheckpoint: there are checkpoints and all are damaged.
          ValueError: paths, shapes or types are not those of `like`, with a list of differences;
            or data positions differ between processes, and their number is another one now.
          OSError: the processes do not share the folder.
        """
        step = by_first(self._newest)
        if step == NONE:
            return Restored(0, like, data)
        path = self._path(step)
        check_seen(path)
        facts = manifest.read(path, FIELDS)
        states = _states(like)
        leaves = named(states)
        kinds = {name: describe(leaf) for name, leaf in leaves.items()}
        advice = f"restore into the model and optimizer that were saved, or move {path} away"
        held = facts["leaves"].items()
        stored = {name: kind for name, kind in held if name in kinds or kind not in NOTHING}
        check_fit(stored, kinds, path, advice)
        data = position.read(path, facts["files"], facts["processes"])
        values = orbax_arrays.read(path / "arrays", leaves)
        fill = lambda name, leaf: filled(values[name], leaf, f"{path}: {name}")
        states = map_by_path(fill, states)
        return Restored(step, jax.tree.map(_put, like, states, is_leaf=_is_module), data)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:010d}"

    def _newest(self) -> int:
        """The newest step that is whole; remembers the damaged ones."""
        if list(self.folder.glob(".step_*.old")):
            with contextlib.suppress(BlockingIOError):  # not while another process moves them
                guest = Checkpoints(self.folder)
                claim(self.folder, guest)
                self._bring_back()
        faults: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                _check(self._path(step), step)
            except CorruptCheckpoint as error:
                faults[step] = str(error)
                line = f"refused: {error}; trying the previous one"
                warnings.warn(line, stacklevel=4)  # where `restore` is called
            else:
                self._refused = {*faults}
                return step
        if faults:
            raise CorruptCheckpoint(
                f"no checkpoint is left: {'; '.join(faults.values())}; delete {self.folder} to "
                "start again, or choose another folder"
            )
        self._refused = set()
        return NONE

    def _clear(self, part: Path) -> None:
        """Remove the unfinished work of a killed process, and make an empty folder."""
        claim(self.folder, self)
        self._bring_back()
        for path in self.folder.glob(".step_*"):
            _remove(path)
        with explain_full_disk(part, 0):
            (part / "data").mkdir(parents=True)

    def _finish(self, part: Path, step: int, kinds: Mapping[str, str]) -> None:
        """Write the manifest, put the checkpoint in place, and remove others."""
        for path in [part, *part.rglob("*")]:
            to_disk(path)
        facts = {"step": step, "processes": jax.process_count(), "leaves": dict(kinds)}
        manifest.write(part, facts)
        old = _hide(self._path(step), "old")  # an earlier checkpoint of the same step
        os.rename(part, self._path(step))
        to_disk(self.folder)
        _remove(old)
        self._refused.discard(step)
        whole = [s for s in self.steps() if s <= step and s not in self._refused]
        for other in self.steps():  # later ones belong to a run that was restarted
            if other not in whole[-self.keep :]:
                _remove(_hide(self._path(other), "gone"))

    def _bring_back(self) -> None:
        """Undo the move of a checkpoint whose replacement was never finished."""
        for old in self.folder.glob(".step_*.old"):
            path = self.folder / old.name.removeprefix(".").removesuffix(".old")
            if not os.path.lexists(path):
                os.rename(old, path)


def _check(path: Path, step: int) -> None:
    """Refuse a checkpoint that is damaged, or of another step."""
    found = manifest.check(path, FIELDS)["step"]
    if found != step:
        raise CorruptCheckpoint(
            f"{path} is damaged: {manifest.MANIFEST}: step is {found}, expected that of the "
            "folder's name"
        )


def _hide(path: Path, why: str) -> Path:
    """Rename a checkpoint, if it exists, so that it no longer counts as one."""
    hidden = path.with_name(f".{path.name}.{why}")
    if os.path.lexists(path):
        os.rename(path, hidden)
    return hidden


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_module(leaf: Any) -> bool:
    """Whether `nnx.update` can fill it in place: a module, an optimizer, random streams."""
    return isinstance(leaf, nnx.Pytree)


def _states(tree: Any) -> Any:
    """A tree in which each module is replaced by its state."""
    return jax.tree.map(lambda x: nnx.state(x) if _is_module(x) else x, tree, is_leaf=_is_module)


def _put(old: Any, new: Any) -> Any:
    """The new leaf; an old module is updated in place and returned."""
    if not _is_module(old):
        return new
    nnx.update(old, new)
    return old
