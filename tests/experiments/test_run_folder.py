"""Run folders and their checkpoints: refused, torn, corrupt, and resumed to the same bits."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro", reason="the experiments need their extra packages")

from experiments.common.run import open_run
from experiments.common.settings import flatten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    alpha: float = 5e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other(Inner):
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    rate: float = 1e-3
    sizes: tuple[int, ...] = (300, 100)
    rule: Inner = dataclasses.field(default_factory=Inner)
    out: Path = dataclasses.field(default=Path("runs"), metadata={"free": True})


def test_settings_and_environment_are_written(tmp_path):
    open_run(tmp_path, Settings(), data="MNIST")
    written = json.loads((tmp_path / "settings.json").read_text())
    assert written["held"] == {
        "rate": 1e-3, "sizes": [300, 100], "rule": "Inner", "rule.alpha": 5e-4, "data": "MNIST",
    }  # fmt: skip
    assert written["free"] == {"out": "runs"}
    assert written["environments"][0]["jax"] == jax.__version__
    assert {"jaxlib", "flax", "optax", "python", "jsparse", "device", "devices", "commit"} <= set(
        written["environments"][0]
    )


def test_same_settings_open_again_and_free_ones_may_change(tmp_path):
    open_run(tmp_path, Settings())
    open_run(tmp_path, Settings(out=Path("elsewhere")))
    assert len(json.loads((tmp_path / "settings.json").read_text())["environments"]) == 1


def test_other_settings_are_refused_one_by_one(tmp_path):
    open_run(tmp_path, Settings(), data="MNIST")
    other = Settings(rate=0.1, sizes=(300, 50), rule=Other(alpha=1e-3))
    with pytest.raises(ValueError) as caught:
        open_run(tmp_path, other, data="digits", extra=1)
    lines = str(caught.value).split("\n")
    assert lines[1:-1] == [
        "  rate: 0.001 there, 0.1 now",
        "  sizes: [300, 100] there, [300, 50] now",
        "  rule: 'Inner' there, 'Other' now",
        "  rule.alpha: 0.0005 there, 0.001 now",
        "  data: 'MNIST' there, 'digits' now",
        "  extra: absent there, 1 now",
    ]
    assert "--out" in lines[-1] and f"delete {tmp_path}" in lines[-1]
    with pytest.raises(ValueError, match="data: 'MNIST' there, absent now"):
        open_run(tmp_path, Settings())


def test_foreign_or_broken_folders_are_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"no settings\.json"):
        open_run(tmp_path, Settings())
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="not a settings file"):
        open_run(tmp_path, Settings())
    with pytest.raises(ValueError, match="rate is a setting and a fact"):
        open_run(tmp_path / "new", Settings(), rate=1)


def test_what_json_cannot_hold_is_named():
    @dataclasses.dataclass
    class Odd:
        thing: object

    with pytest.raises(TypeError, match="thing is a set; allowed"):
        flatten(Odd(thing={1}))
    with pytest.raises(TypeError, match="give an instance of a dataclass"):
        flatten({"a": 1})
    assert flatten(Odd(thing=math.sqrt))[0]["thing"] == "math.sqrt"
    assert flatten(Odd(thing=[Inner()]))[0]["thing"] == [{"class": "Inner", "alpha": 5e-4}]


def test_rows_hold_arrays_as_numbers(tmp_path):
    run = open_run(tmp_path, Settings())
    run.log(1, a=jnp.float32(0.5), b=np.arange(2), c={"d": jnp.ones((), jnp.bfloat16)}, e=True)
    assert run.rows() == [{"step": 1, "a": 0.5, "b": [0, 1], "c": {"d": 1.0}, "e": True}]


def test_torn_last_line_is_dropped_and_a_torn_middle_line_told(tmp_path):
    run = open_run(tmp_path, Settings())
    run.log(1, loss=0.5)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert [row["step"] for row in run.rows()] == [1]
    run = open_run(tmp_path, Settings())
    run.log(2, loss=0.25)
    assert [row["step"] for row in run.rows()] == [1, 2]
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo\n{"step": 4}\n')
    with pytest.raises(ValueError, match="line 3 is not JSON"):
        run.rows()


def test_complete_run(tmp_path, capsys):
    run = open_run(tmp_path, Settings())
    assert not run.complete
    with pytest.raises(FileNotFoundError, match="not complete"):
        run.final()
    run.finish(accuracy=jnp.float32(0.5))
    again = open_run(tmp_path, Settings())
    assert again.complete and again.final() == {"accuracy": 0.5}
    assert "complete run" in capsys.readouterr().err
