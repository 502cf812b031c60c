"""A new rule, revision or pruning method is one file and two lines; shared tests then find it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import violations

ROOT = Path(__file__).parent.parent
RULE = '''
"""Positive weights count."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._pattern import Role
from jsparse.rules._rule import State


@dataclass(frozen=True, kw_only=True)
class Positive:
    """Keep what is above 0."""

    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ()

    def init(self, weight: Array, key: Array) -> State:
        return {}

    def mask(self, weight: Array, state: State) -> Array:
        return (weight > 0).astype(weight.dtype)

    def apply(self, weight: Array, state: State) -> Array:
        return weight * self.mask(weight, state)

    def cost(self, state: State) -> Array:
        return jnp.zeros(())

    def advance(self, weight: Array, state: State) -> State:
        return state
'''
REVISION = '''
"""New masks at random."""

from dataclasses import dataclass
from typing import ClassVar

import jax
from jax import Array

from jsparse._pattern import Role
from jsparse._topk import highest


@dataclass(frozen=True, kw_only=True)
class Redraw:
    """Draw each mask again every few steps, with as many weights."""

    every: int
    role: Role = Role()
    pauses: ClassVar[bool] = True
    clears: ClassVar[bool] = False

    def due(self, step: Array) -> Array:
        return step % self.every == 0

    def trained(self, mask: Array, weight: Array) -> Array:
        return mask

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        draw = jax.random.uniform(key, mask.shape)
        return highest(draw, mask.sum().astype(int), range(mask.ndim)).astype(mask.dtype)
'''
METHOD = '''
"""The smallest weights stay."""

from flax import nnx

from jsparse.prune._choice import Selector, globally, keep_highest, magnitudes


def smallest(model: nnx.Module, *, density: float, choose: Selector = globally) -> nnx.Module:
    """A copy of the model that keeps its smallest weights."""
    scores = {path: 1 / score for path, score in magnitudes(model).items()}
    return keep_highest(model, scores, density, choose)
'''
FACE, PRUNE = "jsparse/__init__.py", "jsparse/prune/__init__.py"
ADDED = {  # the file: its source, and two lines: which file, below which line, what
    "jsparse/rules/_positive.py": (
        RULE,
        (
            FACE,
            "from jsparse.rules._top ",
            "from jsparse.rules._positive import Positive as Positive",
        ),
        ("tests/support/cases.py", "RULES = {", '    "positive": js.Positive(),'),
    ),
    "jsparse/_revise/redraw.py": (
        REVISION,
        (FACE, "from jsparse._revise.acdc ", "from jsparse._revise.redraw import Redraw as Redraw"),
        ("tests/support/revising.py", "REVISIONS = {", '    "redraw": js.Redraw(every=2),'),
    ),
    "jsparse/prune/_smallest.py": (
        METHOD,
        (
            PRUNE,
            "from jsparse.prune._wanda ",
            "from jsparse.prune._smallest import smallest as smallest",
        ),
        ("tests/prune/test_at_birth.py", "METHODS = {", '    "smallest": js.prune.smallest,'),
    ),
}
FOUND = ["positive-linear", "redraw", "smallest", "import"]


@pytest.mark.slow
def test_one_file_and_two_lines_are_enough(tmp_path: Path) -> None:
    for folder in ("jsparse", "tests", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("_build"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, (source, *lines) in ADDED.items():
        (tmp_path / file).write_text(source.lstrip())
        for place, below, line in lines:
            text = (tmp_path / place).read_text().splitlines(keepends=True)
            (at,) = (n for n, old in enumerate(text) if old.startswith(below))
            (tmp_path / place).write_text("".join([*text[: at + 1], f"{line}\n", *text[at + 1 :]]))
    assert violations(tmp_path / "jsparse") == violations(ROOT / "jsparse")
    tests = (
        "test_contract.py",
        "test_import.py",
        "revise/test_revise.py",
        "prune/test_at_birth.py",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-v", "-p", "no:cacheprovider"]
        + [f"tests/{test}" for test in tests]
        + ["-k", " or ".join(FOUND)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    for name in FOUND:
        assert done.stdout.count(name) >= 3, f"too few tests met {name}"
