"""The choice that pruning methods share: exact counts, who competes, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._budget import erdos_renyi_kernel, uniform
from tests.support.cases import Stacked

CHOICES = {
    "globally": js.prune.globally,
    "uniform": js.prune.by_layer(uniform),
    "erk": js.prune.by_layer(erdos_renyi_kernel),
}


def net() -> nnx.Module:
    """Two layers, of different size of weights."""
    first, second = (nnx.Linear(*s, rngs=nnx.Rngs(n)) for n, s in enumerate([(12, 20), (20, 5)]))
    second.kernel[...] = 3 * second.kernel[...]
    return js.sparsify(nnx.Sequential(first, nnx.relu, second), (".*/kernel", js.Held()))


def sizes(model: nnx.Module) -> dict[str, Array]:
    return {path: jnp.abs(part.weight[...]) for path, part in js.prune.held_parts(model).items()}


@pytest.mark.parametrize("choice", CHOICES)
def test_the_total_is_met_and_masks_are_nested(choice: str) -> None:
    model = net()
    before = {path: np.ones(s.shape) for path, s in sizes(model).items()}
    for density in (0.8, 0.5, 0.25):
        model = js.prune.keep_highest(model, sizes(model), density, CHOICES[choice])
        masks = js.masks(model)
        kept = sum(int(m.sum()) for m in masks.values())
        assert abs(kept - density * 340) <= (0.5 if choice == "globally" else 1)
        assert all((masks[path] <= before[path]).all() for path in masks)
        before = masks


def test_globally_compares_layers_and_by_layer_does_not() -> None:
    model = net()
    density = lambda m: {path: float(mask.mean()) for path, mask in js.masks(m).items()}
    together = density(js.prune.keep_highest(model, sizes(model), 0.2))
    apart = density(js.prune.keep_highest(model, sizes(model), 0.2, CHOICES["uniform"]))
    assert together["layers/2/kernel"] > 0.4 > 0.15 > together["layers/0/kernel"]
    assert list(apart.values()) == pytest.approx([0.2, 0.2])


def test_of_equal_scores_exactly_as_many_as_asked_are_kept() -> None:
    model = net()
    flat = {path: jnp.ones_like(score) for path, score in sizes(model).items()}
    kept = js.masks(js.prune.keep_highest(model, flat, 0.9))
    assert sum(int(mask.sum()) for mask in kept.values()) == 306


def test_stacked_layers_count_as_layers() -> None:
    model = js.sparsify(Stacked(nnx.Rngs(0)), (".*/kernel", js.Held()))
    score = {"layers/kernel": jnp.arange(48.0).reshape(3, 4, 4)}
    apart = js.prune.keep_highest(model, score, 0.25, CHOICES["uniform"])
    assert js.masks(apart)["layers/kernel"].sum((1, 2)).tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match=r"layers/kernel\[0\], layers/kernel\[1\].*collapse"):
        js.prune.keep_highest(model, score, 0.25)


def test_a_budget_sees_inputs_and_outputs_whatever_the_order_of_axes() -> None:
    """An attention projection [in, heads, width] has the budget of a dense layer of its size."""
    plain, heads = (
        nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
        nnx.LinearGeneral(8, (2, 4), rngs=nnx.Rngs(0)),
    )
    model = js.sparsify(nnx.Sequential(heads, plain), (".*/kernel", js.Held()))
    random = {p: jax.random.uniform(jax.random.key(0), s.shape) for p, s in sizes(model).items()}
    kept = js.masks(js.prune.keep_highest(model, random, 0.5, CHOICES["erk"]))
    assert [int(mask.sum()) for mask in kept.values()] == [32, 32]


REFUSED = {
    "density": (lambda m, s: js.prune.keep_highest(m, s, 0.0), "fraction of weights kept"),
    "absent": (lambda m, s: js.prune.keep_highest(m, {}, 0.5), "layers/0/kernel: has no score"),
    "shape": (
        lambda m, s: js.prune.keep_highest(m, s | {"layers/0/kernel": jnp.ones(3)}, 0.5),
        r"layers/0/kernel: the score has shape \(3,\), but the weight \(12, 20\)",
    ),
    "nan": (
        lambda m, s: js.prune.keep_highest(m, {p: x * jnp.nan for p, x in s.items()}, 0.5),
        "NaN in the weights",
    ),
    "no weights": (lambda m, s: js.prune.held_parts(js.fold(m)), "choose weights with"),
    "other rule": (
        lambda m, s: js.prune.held_parts(js.sparsify(m, (".*", js.Top(density=0.5)))),
        r"is under Top.*jsparse\.hold",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    model = net()
    with pytest.raises(ValueError, match=message):
        call(model, sizes(model))


def test_what_is_kept_dense_is_not_pruned() -> None:
    model = nnx.Sequential(nnx.Linear(8, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 4, rngs=nnx.Rngs(1)))
    model = js.sparsify(model, (".*/0/kernel", js.Keep()), (".*/kernel", js.Held()))
    for _ in range(2):
        model = js.prune.random(model, density=0.5, key=jax.random.key(0))
    masks = js.masks(model)
    assert [float(mask.mean()) for mask in masks.values()] == [1.0, 0.5]


@pytest.mark.parametrize("choose", [js.schedule.erdos_renyi, js.prune.by_layer, "erk"])
def test_a_budget_is_no_choice(choose) -> None:
    model = js.sparsify(nnx.Linear(8, 6, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    with pytest.raises(TypeError, match="by_layer\\(budget\\)"):
        js.prune.magnitude(model, density=0.5, choose=choose)
    with pytest.raises(TypeError, match="by_layer\\(budget\\)"):
        js.prune.lottery(model, lambda m, r: m, (0.5,), choose=choose)
