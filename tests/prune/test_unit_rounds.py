"""The recipe of the guide for rounds of `prune.units`: killed at any point, it ends the same."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import jsparse as js
from tests.support.snippets import CODE

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
PAGE = Path(__file__).parents[2] / "docs" / "units.md"


def recipe() -> Any:
    """The function of the guide, for a small model."""
    (code,) = [one.group(1) for one in CODE.finditer(PAGE.read_text()) if "def in_rounds" in one[1]]
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.a, self.b = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(nnx.relu(self.a(x)))

    names = {"jax": jax, "jnp": jnp, "nnx": nnx, "jsparse": js, "optax": optax, "x": x, "Net": Net}
    names["loss"] = lambda model, batch: ((model(batch[0]) - batch[0]) ** 2).mean()
    exec(code.replace('in_rounds("runs/rounds")', "None, None"), names)
    return names["in_rounds"]


class Killed(BaseException):
    """In place of a kill."""


@pytest.mark.slow
def test_a_kill_at_any_point_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_rounds = recipe()
    whole, record = in_rounds(tmp_path / "whole", steps=10)
    assert whole.a.kernel.shape == record.cuts["a/kernel"].left == (3, 4)
    save, replace, left = js.Checkpoints.save, Path.replace, [0]

    def dies(do: Any) -> Any:
        def done(*args: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return do(*args)

        return done

    monkeypatch.setattr(js.Checkpoints, "save", dies(save))
    monkeypatch.setattr(Path, "replace", dies(replace))
    kills = 0
    for at in (1, 2, 3, 2, 3, 3):  # one after another, each at so many of the events that follow
        left[0] = at
        try:
            in_rounds(tmp_path / "cut", steps=10)
        except Killed:
            kills += 1
    assert kills >= 4
    left[0] = -1
    model, again = in_rounds(tmp_path / "cut", steps=10)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), nnx.state(whole), nnx.state(model))
    assert jax.tree.all(same) and again == record
