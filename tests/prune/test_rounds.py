"""Rounds of training and pruning: densities, masks, what goes back, and what a kill leaves."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse._storage.described import described
from jsparse._storage.tree_file import read, snapshot, write
from jsparse.prune import Folder, Rewind, Round, each_round, lottery
from jsparse.prune._folder import with_stored
from tests.support.tree_files import rewritten, unpacked

WEIGHTS = 6 * 8 + 8 * 4


class Net(nnx.Module):
    """Two layers, a norm with statistics, and random keys."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, dtype=jnp.float32, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(8, 4, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=rngs)


def make(rngs: nnx.Rngs) -> nnx.Module:
    return js.sparsify(Net(rngs), (".*/kernel", js.Held()))


def net(seed: int = 0) -> nnx.Module:
    return make(nnx.Rngs(seed))


def variables(model: nnx.Module) -> dict[str, np.ndarray]:
    return snapshot(nnx.state(model)).arrays


def noise(model: nnx.Module, seed: int) -> nnx.Module:
    """Every variable moved, in place, as training would: the same for the same model and seed."""
    rng = np.random.default_rng(seed)
    for part in js.prune.held_parts(model).values():
        weight = part.weight[...]
        part.weight[...] = weight + jnp.asarray(rng.normal(size=weight.shape), weight.dtype)
    model.norm.mean[...] = model.norm.mean[...] + 1.0
    model.first.bias[...] = model.first.bias[...] + 1.0
    return model


def train(model: nnx.Module, round: Round) -> nnx.Module:
    return noise(model, round.number)


def same(one: nnx.Module, other: nnx.Module) -> bool:
    a, b = variables(one), variables(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("choose", [js.prune.globally, js.prune.by_layer()])
def test_densities_are_exact_and_masks_nested(choose: Any) -> None:
    asked = each_round(0.7, 4)
    found = list(lottery(net(), train, asked, choose=choose))
    assert [round.number for round, _ in found] == [0, 1, 2, 3, 4]
    kept = [js.masks(model) for _, model in found]
    for n, density in enumerate([1.0, *asked]):
        counted = sum(int(mask.astype(float).sum()) for mask in kept[n].values())
        assert found[n][0].density == pytest.approx(counted / WEIGHTS)
        assert abs(counted - density * WEIGHTS) <= (0.5 if choose is js.prune.globally else 1)
    for early, late in itertools.pairwise(kept):
        assert all((late[path] <= early[path]).all() for path in late)


def test_the_smallest_of_the_trained_weights_are_pruned() -> None:
    (_, dense), (_, pruned) = lottery(net(), train, (0.5,))
    size = np.concatenate([np.abs(w).ravel() for w in trained_weights(dense)])
    mask = np.concatenate([np.asarray(m, float).ravel() for m in js.masks(pruned).values()])
    assert size[mask == 1].min() >= size[mask == 0].max()


def trained_weights(model: nnx.Module) -> list[np.ndarray]:
    return [np.asarray(p.weight[...], float) for p in js.prune.held_parts(model).values()]


class Seen:
    """A train function that notes what it was given."""

    def __init__(self) -> None:
        self.models: list[dict[str, np.ndarray]] = []
        self.rounds: list[Round] = []

    def __call__(self, model: nnx.Module, round: Round) -> nnx.Module:
        self.models.append(variables(model))
        self.rounds.append(round)
        return train(model, round)


def test_rewinding_gives_back_all_but_the_masks() -> None:
    start, seen = net(3), Seen()
    found = list(lottery(start, seen, (0.5, 0.2), restart=Rewind(step=7)))
    for given, (_, trained) in zip(seen.models, found, strict=True):
        for name, there in variables(start).items():
            assert np.array_equal(
                given[name], variables(trained)[name] if "mask" in name else there
            )
    assert [round.first for round in seen.rounds] == [7, 7, 7]
    assert same(start, net(3))  # left as it is


@pytest.mark.parametrize(
    ("restart", "first"),
    [(js.prune.RewindRate(), [0, 0, 0]), (js.prune.FineTune(step=90), [0, 90, 90])],
)
def test_weights_stay_and_the_rate_does_or_starts_over(restart: Any, first: list[int]) -> None:
    seen = Seen()
    found = list(lottery(net(), seen, (0.5, 0.2), restart=restart))
    for (_, before), after in zip(found, seen.models[1:], strict=False):
        there = variables(before)
        assert all(np.array_equal(after[n], there[n]) for n in there if "mask" not in n)
    assert [round.first for round in seen.rounds] == first


def test_reinitialized_weights_are_new_and_the_masks_those_of_the_ticket() -> None:
    start, seen = net(), Seen()
    restart = js.prune.Reinitialize(make=make)
    found = list(lottery(start, seen, (0.5, 0.2), restart=restart))
    draws = [variables(start)["first/kernel/weight"]]
    draws += [model["first/kernel/weight"] for model in seen.models[1:]]
    assert all((a != b).mean() > 0.9 for n, a in enumerate(draws) for b in draws[:n])
    assert found[2][0].density == pytest.approx(0.2)
    again = list(lottery(start, train, (0.5, 0.2), restart=restart))
    assert same(found[2][1], again[2][1])


def test_what_is_done_to_a_ticket_does_not_reach_the_next_round() -> None:
    want = [model for _, model in lottery(net(), train, (0.5, 0.2))]
    for n, (_, model) in enumerate(lottery(net(), train, (0.5, 0.2))):
        assert same(model, want[n])
        noise(model, 99)


class Kill(BaseException):
    """What a kill looks like from inside."""


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_kill_at_any_point_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, during and after training, and before and after each file is put in its place."""
    asked, start = (0.5, 0.2), net()
    whole = Folder(tmp_path / "whole", {"epochs": 3})
    want = list(lottery(start, train, asked, keep=whole))
    replace, calls = os.replace, []

    def lose(at: int, when: str) -> None:
        def dying_replace(source: Any, target: Any) -> None:
            calls.append(target)
            if len(calls) == at and when == "before":
                raise Kill
            replace(source, target)
            if len(calls) == at:
                raise Kill

        calls.clear()
        monkeypatch.setattr(os, "replace", dying_replace)

    points = [(at, when) for at in range(1, 5) for when in ("before", "after")]
    for at, when in points:
        keep = Folder(tmp_path / f"{at} {when}", {"epochs": 3})
        lose(at, when)
        with pytest.raises(Kill):
            list(lottery(start, train, asked, keep=keep))
        assert len(calls) == at
        monkeypatch.setattr(os, "replace", replace)
        again = Seen()
        found = list(lottery(start, again, asked, keep=keep))
        kept = max(0, at - (2 if when == "before" else 1))  # the first file has the settings
        assert [round.number for round in again.rounds] == list(range(kept, 3))
        assert files(Path(keep.path)) == files(Path(whole.path))
        assert all(a[0] == b[0] and same(a[1], b[1]) for a, b in zip(found, want, strict=True))


def test_a_kill_while_training_loses_that_round_only(tmp_path: Path) -> None:
    def dies(model: nnx.Module, round: Round) -> nnx.Module:
        if round.number == 1:
            noise(model, 5)
            raise Kill
        return train(model, round)

    keep = Folder(tmp_path)
    with pytest.raises(Kill):
        list(lottery(net(), dies, (0.5, 0.2), keep=keep))
    seen = Seen()
    found = list(lottery(net(), seen, (0.5, 0.2), keep=keep))
    assert [round.number for round in seen.rounds] == [1, 2]
    assert same(found[2][1], list(lottery(net(), train, (0.5, 0.2)))[2][1])


def test_rounds_can_be_added_and_are_not_run_twice(tmp_path: Path) -> None:
    keep = Folder(tmp_path)
    list(lottery(net(), train, (0.5,), keep=keep))
    seen = Seen()
    list(lottery(net(), seen, (0.5, 0.2), keep=keep))
    assert [round.number for round in seen.rounds] == [2]
    note = read(tmp_path / "round_002.npz").facts
    assert note["density"] == pytest.approx(0.2) and set(note["layers"]) == set(js.masks(net()))
    with np.load(tmp_path / "round_002.npz", allow_pickle=False) as file:
        assert {"first/kernel/mask", "first/kernel/weight", "norm/mean"} <= set(file.files)


def test_a_round_that_was_deleted_is_run_again_and_so_are_those_that_followed(
    tmp_path: Path,
) -> None:
    keep = Folder(tmp_path)
    list(lottery(net(), train, (0.5, 0.2), keep=keep))
    (tmp_path / "round_001.npz").unlink()
    numbers = []

    def other(model: nnx.Module, round: Round) -> nnx.Module:  # a train function that changed
        numbers.append(round.number)
        return noise(model, round.number + 10)

    list(lottery(net(), other, (0.5, 0.2), keep=keep))
    assert numbers == [1, 2]


def noted(**changed: Any) -> Callable[[bytes], bytes]:
    """Other notes, in an archive whose own checksums are right."""
    return lambda content: rewritten(content, lambda notes: notes | changed)


def resealed(**changed: Any) -> Callable[[bytes], bytes]:
    """Other facts, and a checksum of the file that is right."""

    def harm(content: bytes) -> bytes:
        stored = unpacked(content)
        facts = {name: fact for name, fact in (stored.facts | changed).items() if fact != "absent"}
        return write(stored.arrays, facts)

    return harm


DAMAGED = {
    "cut": lambda content: content[: len(content) // 2],
    "cut by one byte": lambda content: content[:-1],
    "flipped bit": lambda content: content[:-9] + b"\0" + content[-8:],
    "flipped bit of a weight": lambda content: flipped(content, content.index(b"NUMPY") + 200),
    "other sum": noted(sha256="0"),
    "no sum": noted(sha256=None),
    "other leaves": noted(leaves={}),
    "other facts": noted(facts={"asked": 0.5, "after": "start"}),
    "no density": resealed(asked="absent"),
    "density": resealed(asked=[0.5]),
    "after": resealed(after=3),
}


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, case: str) -> None:
    keep = Folder(tmp_path)
    list(lottery(net(), train, (0.5,), keep=keep))
    path = tmp_path / "round_001.npz"
    content = path.read_bytes()
    harmed = DAMAGED[case](content)
    assert harmed != content
    path.write_bytes(harmed)
    with pytest.raises(ValueError, match=r"round_001\.npz is damaged.*delete round_001\.npz"):
        list(lottery(net(), train, (0.5,), keep=keep))


SETTINGS = [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000]


@pytest.mark.parametrize("content", SETTINGS)
def test_damaged_settings_are_refused(tmp_path: Path, content: bytes) -> None:
    keep = Folder(tmp_path)
    list(lottery(net(), train, (0.5,), keep=keep))
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"settings\.json is damaged: .*choose another folder"):
        lottery(net(), train, (0.5,), keep=keep)


OTHERS = {
    "start": (lambda keep: lottery(net(1), train, (0.5,), keep=keep), "start is 'Net"),
    "choose": (
        lambda keep: lottery(net(), train, (0.5,), choose=js.prune.by_layer(), keep=keep),
        "choose is",
    ),
    "restart": (
        lambda keep: lottery(net(), train, (0.5,), restart=Rewind(step=3), keep=keep),
        "restart is",
    ),
    "facts": (
        lambda keep: lottery(net(), train, (0.5,), keep=Folder(keep.path, {"epochs": 9})),
        "facts is",
    ),
    "density": (
        lambda keep: list(lottery(net(), train, (0.4,), keep=keep)),
        "at density 0.5, now it is 0.4",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_settings_are_refused(tmp_path: Path, case: str) -> None:
    keep = Folder(tmp_path)
    list(lottery(net(), train, (0.5,), keep=keep))
    call, message = OTHERS[case]
    with pytest.raises(ValueError, match=message):
        call(keep)


def changed_mask(model: nnx.Module, round: Round) -> nnx.Module:
    mask = model.first.kernel.mask
    mask[...] = mask[...] * 0
    return model


REFUSED = {
    "nothing returned": (lambda: list(lottery(net(), lambda m, r: None, (0.5,))), "return the tr"),
    "masks": (lambda: list(lottery(net(), changed_mask, (0.5,))), "changed the mask of first/ke"),
    "other model": (
        lambda: list(lottery(net(), lambda m, r: nnx.Linear(2, 2, rngs=nnx.Rngs(0)), (0.5,))),
        "(?s)train returned does not have the expected.*first/bias: missing",
    ),
    "rising": (lambda: lottery(net(), train, (0.5, 0.6)), "decrease from round to round"),
    "one": (lambda: lottery(net(), train, (1.0,)), "decrease from round to round"),
    "sparsity": (lambda: lottery(net(), train, (-0.1,)), "densities must be"),
    "not callable": (lambda: lottery(net(), 3, (0.5,)), "train must be a function"),
    "no weights": (lambda: lottery(Net(nnx.Rngs(0)), train, (0.5,)), "choose weights with"),
    "each_round": (lambda: each_round(1.0, 3), "kept must be a number in"),
    "step": (lambda: Rewind(step=-1), "0 or more"),
    "fine-tuning": (lambda: js.prune.FineTune(step=-1), "0 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_settings_are_described_by_what_they_hold() -> None:
    assert described(js.prune.globally) == "jsparse.prune.globally"
    assert described(js.prune.by_layer())["budget"] == "jsparse.uniform"
    assert described(jnp.ones(3)) == described(np.ones(3, np.float32)) != described(jnp.zeros(3))
    assert described(net(0)) == described(net(0)) != described(net(1))
    assert described({"b", "a"}) == described(np.array(["a", "b"])) == ["a", "b"]
    assert described(Path("a")) != described(Path("b"))
    assert described(object()) == "builtins.object"


def test_a_model_is_filled_on_its_devices() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
    model = net()
    model.first.kernel.weight[...] = jax.device_put(model.first.kernel.weight[...], place)
    copy = with_stored(model, snapshot(nnx.state(model)), "memory", "advice")
    assert same(copy, model)
    assert copy.first.kernel.weight[...].sharding == place


def test_narrow_types_are_counted_exactly() -> None:
    layer = nnx.Linear(100, 100, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    model = js.sparsify(layer, ("kernel", js.Held()))
    rounds = js.prune.lottery(model, lambda model, round: model, (0.5, 0.25))
    assert [round.density for round, _ in rounds] == [1.0, 0.5, 0.25]


def test_weights_under_keep_do_not_count() -> None:
    model = js.sparsify(Net(nnx.Rngs(0)), ("last/kernel", js.Keep()), ("first/kernel", js.Held()))
    rounds = js.prune.lottery(model, lambda model, round: model, (0.5,))
    assert [round.density for round, _ in rounds] == [1.0, 0.5]
