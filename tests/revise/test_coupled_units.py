"""Revisions of coupled units: what dies and comes back, in all weights of a group."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from jsparse._revise.revision import Revision
from jsparse._slots import held_groups
from tests.support.coupled import (
    INNER,
    READS,
    STREAM,
    Net,
    X,
    check_removed,
    coupled,
    groups,
    norms,
    weights,
)

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
BOTH = (nnx.Param, js.Mask)
UNIT = js.Group()


def held(density: float) -> Any:
    """The net with random masks on both of its groups."""
    return js.prune.random(coupled(js.Held()), density=density, key=jax.random.key(3))


def alive(model: nnx.Module) -> dict[tuple, np.ndarray]:
    """Which units of each group have 1 in the mask."""
    stream, inner = (np.asarray(group.mask[...]) > 0 for group in held_groups(model).values())
    return {STREAM: stream, INNER: inner}


def gradients(model: nnx.Module) -> Any:
    loss = lambda model: ((model(X) - X[:, :3]) ** 2).mean()
    return nnx.grad(loss, argnums=nnx.DiffState(0, BOTH))(model)


def optimizer(model: nnx.Module, tx: Any, by: Revision) -> js.Optimizer:
    return js.Optimizer(model, js.revise(tx, (".*", by), roles=js.roles(model)), wrt=BOTH)


def of_units(arrays: dict[str, np.ndarray], makers: tuple, n: int) -> list[np.ndarray]:
    """What belongs to a unit in each weight that it spans: those that make it, then readers."""
    reads = [(path, axis) for path, (axis, by) in READS.items() if by == makers]
    return [np.moveaxis(arrays[path], axis, 0)[n] for path, axis in (*makers, *reads)]


@functools.cache
def exchanged() -> tuple[Any, Any, js.Optimizer, dict[str, np.ndarray]]:
    """The net before and after two steps of RigL, the second an exchange, with its gradients."""
    model = held(0.5)
    by = js.RigL(last=9, every=2, fraction=0.5, unit=UNIT)
    training = optimizer(model, optax.adamw(1e-2, weight_decay=0.1), by)
    first = weights(model)
    training.update(model, gradients(model))
    closed = {makers: ~kept for makers, kept in alive(model).items()}
    for makers, dead in closed.items():  # closed units are not trained, nor do they decay
        for n in np.flatnonzero(dead).tolist():
            for one, two in zip(
                of_units(first, makers, n), of_units(weights(model), makers, n), strict=True
            ):
                np.testing.assert_array_equal(one, two)
    before, grads = js.advance(model), gradients(model)
    dense = {path: np.asarray(g.weight[...]) for path, g in parts(grads).items()}
    training.update(model, grads)
    return before, model, training, dense


def parts(grads: Any) -> dict[str, Any]:
    """The gradients of the weights that read units, by path."""
    return {"b/kernel": grads.b.kernel, "c/kernel": grads.c.kernel, "out/kernel": grads.out.kernel}


@pytest.mark.slow
def test_units_are_dropped_by_their_norm_and_grown_by_their_dense_gradients() -> None:
    before, after, _, dense = exchanged()
    part = 0.5 / 2 * (1 + np.cos(np.pi * 2 / 9))
    for makers in (STREAM, INNER):
        on, size = alive(before)[makers], norms(before, makers)
        number = int(on.sum())
        stay = on & (size >= np.sort(size[on])[round(part * number)])
        readers = [(path, axis) for path, (axis, by) in READS.items() if by == makers]
        rows = [np.moveaxis(dense[path], axis, 0).reshape(len(on), -1) for path, axis in readers]
        growth = np.where(stay, -1, (np.concatenate(rows, axis=1) ** 2).sum(1))
        assert (growth[~stay] > 0).all()
        want = stay | (growth >= np.sort(growth)[::-1][number - stay.sum() - 1])
        np.testing.assert_array_equal(alive(after)[makers], want)
        assert (want != on).any()


def test_what_reads_a_new_unit_is_0_and_what_makes_it_is_kept() -> None:
    before, after, training, _ = exchanged()
    moved = {m: alive(before)[m] != alive(after)[m] for m in (STREAM, INNER)}
    assert all(one.any() and not one.all() for one in moved.values())
    want = weights(before)
    for path, (axis, makers) in READS.items():
        want[path] = want[path].copy()
        np.moveaxis(want[path], axis, 0)[moved[makers]] = 0
    for path, array in weights(after).items():
        np.testing.assert_array_equal(array, want[path], err_msg=path)
    state = {"/".join(map(str, at)): v for at, v in nnx.to_flat_state(nnx.state(training))}
    for kind in ("mu", "nu"):
        for makers, units in moved.items():
            for path, axis in makers:
                (own,) = (v[...] for at, v in state.items() if f"{kind}/{path}/weight" in at)
                rows = np.moveaxis(np.asarray(own), axis, 0)
                assert not rows[units].any() and rows[alive(after)[makers] & ~units].any()


def test_units_die_and_come_back_and_shrink_removes_the_dead() -> None:
    model = held(0.5)
    by = js.SET(last=20, every=2, fraction=0.4, unit=UNIT)
    training = optimizer(model, optax.adam(1e-2), by)

    @nnx.jit
    def run(model: nnx.Module, training: js.Optimizer) -> None:
        training.update(model, gradients(model))

    seen = [np.concatenate([*alive(model).values()])]
    for _ in range(24):
        run(model, training)
        seen.append(np.concatenate([*alive(model).values()]))
    masks = np.array(seen)
    assert (masks[:, :8].sum(1) == 4).all() and (masks[:, 8:].sum(1) == 6).all()
    died, grew = (masks[:-1] & ~masks[1:]).argmax(0), (~masks[:-1] & masks[1:])
    back = [(n, t) for n, t in enumerate(died) if masks[t, n] and grew[t:, n].any()]
    assert len(back) > 2
    model.eval()
    check_removed(model, alive(model))
    entries = of_units(weights(model), STREAM, int(alive(model)[STREAM].argmax()))
    assert all(np.abs(own).max() > 0 for own in entries)


REST = {
    "gradual": js.Gradual(density=0.5, last=6, every=2, unit=UNIT),
    "ac/dc": js.ACDC(density=0.5, first=2, every=2, last=6, unit=UNIT),
    "top-kast": js.TopKAST(density=0.5, backward=0.75, every=2, unit=UNIT),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_the_largest_units_stay(name: str) -> None:
    model = coupled(js.Held())
    if name == "top-kast":
        model = js.prune.magnitude(model, density=0.5, choose=js.prune.by_layer())
    training = optimizer(model, optax.adam(1e-2), REST[name])
    for _ in range(6):
        training.update(model, gradients(model))
    assert {makers: int(kept.sum()) for makers, kept in alive(model).items()} == {
        STREAM: 4,
        INNER: 6,
    }
    if name == "top-kast":  # half is used, three quarters are trained
        start = weights(model)["out/kernel"]
        training.update(model, gradients(model))
        assert ((weights(model)["out/kernel"] != start).any(1)).sum() == 6
    model.eval()
    check_removed(model, alive(model))


def test_masks_of_units_are_chosen_by_their_norms() -> None:
    model = coupled(js.Held())
    chosen = js.prune.magnitude(model, density=0.5)
    scores = np.concatenate([norms(model, makers) for makers in (STREAM, INNER)])
    kept = np.concatenate([*alive(chosen).values()])
    np.testing.assert_array_equal(kept, scores >= np.sort(scores)[-10])
    assert all(kept.all() for kept in alive(model).values())  # it is a copy
    with pytest.raises(ValueError, match="a/kernel:1 are coupled, and this method scores single"):
        js.prune.held_parts(model)
    loose = js.hold(chosen)
    assert type(loose.c.kernel.rule) is js.Held
    for path, mask in js.masks(chosen).items():
        np.testing.assert_array_equal(js.masks(loose)[path], mask)


def test_what_does_not_fit_is_said() -> None:
    model = held(0.5)
    by = js.SET(last=9, every=2, unit=UNIT)
    make = lambda by, **roles: js.Optimizer(model, js.revise(optax.sgd(0.1), by, **roles), wrt=BOTH)
    roles = js.roles(model)
    with pytest.raises(ValueError, match=r"coupled units, give revise roles=jsparse\.roles"):
        make((".*", by))
    with pytest.raises(ValueError, match=r"a/kernel:1: SET has the unit Weight\(\); give it unit"):
        make((".*", js.SET(last=9, every=2)), roles=roles)
    with pytest.raises(ValueError, match=r"a/kernel:1: Below has the unit Weight\(\)"):
        make((".*", js.Below(quality=1.0, last=200)), roles=roles)
    with pytest.raises(ValueError, match=r"a/kernel:1: SET has the scope PerOutput\(\)"):
        make((".*", js.SET(last=9, every=2, unit=UNIT, scope=js.PerOutput())), roles=roles)
    with pytest.raises(ValueError, match="'c/kernel' matches no parameter"):
        make(("c/kernel", by), roles=roles)
    make(("a/kernel:1", by), roles=roles)  # the other group is fixed
    single = js.sparsify(Net(nnx.Rngs(0)), (".*/kernel", js.Held()))
    with pytest.raises(ValueError, match=r"give it another unit, or couple the model first"):
        js.Optimizer(single, js.revise(optax.sgd(0.1), (".*", by)), wrt=BOTH)
    assert groups()["a/kernel:1"].width == len(jnp.ravel(model.a.kernel.units0.mask[...]))
