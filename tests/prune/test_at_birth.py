"""Pruning before the first step: scores against closed forms, counts, modes, batches, collapse."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._budget import erdos_renyi_kernel, uniform
from jsparse.prune import grasp_scores, snip_scores, synflow_scores
from tests.support.cases import Shared, Stacked

KEY = jax.random.key(3)
ERK = js.prune.by_layer(erdos_renyi_kernel)


def loss(model, batch: tuple[Array, Array]) -> Array:
    """Half of the mean squared distance."""
    return 0.5 * ((model(batch[0]) - batch[1]) ** 2).sum(-1).mean()


def held(model: nnx.Module) -> nnx.Module:
    return js.sparsify(model, (".*/kernel", js.Held()))


def net(middle: Callable = lambda x: x, bias: bool = False) -> nnx.Module:
    """4-5-3, linear unless something is put in the middle."""
    first, second = (
        nnx.Linear(a, b, use_bias=bias, rngs=nnx.Rngs(n))
        for n, (a, b) in enumerate([(4, 5), (5, 3)])
    )
    return held(nnx.Sequential(first, middle, second))


def batch(n: int = 6, seed: int = 0, inputs: int = 4, outputs: int = 3) -> tuple[Array, Array]:
    keys = jax.random.split(jax.random.key(seed), 2)
    return jax.random.normal(keys[0], (n, inputs)), jax.random.normal(keys[1], (n, outputs))


METHODS = {
    "random": lambda model, **k: js.prune.random(model, key=KEY, **k),
    "magnitude": js.prune.magnitude,
    "snip": lambda model, **k: js.prune.snip(model, loss, [batch()], **k),
    "grasp": lambda model, **k: js.prune.grasp(model, loss, [batch()], **k),
    "synflow": lambda model, **k: js.prune.synflow(model, (1, 4), rounds=5, **k),
}


def gradient(w: list[np.ndarray], data: tuple) -> list[np.ndarray]:
    """Of the loss of the linear net, by hand, in float64."""
    x, y = (np.asarray(a, np.float64) for a in data)
    error = (x @ w[0] @ w[1] - y) / len(x)
    return [x.T @ error @ w[1].T, (x @ w[0]).T @ error]


def kernels(model: nnx.Module) -> list[np.ndarray]:
    return [np.asarray(part, np.float64) for part in js.prune.held_parts(model).values()]


def test_snip_is_gradient_times_weight() -> None:
    model = net()
    w = kernels(model)
    by_hand = [np.abs(g * a) for g, a in zip(gradient(w, batch()), w, strict=True)]
    for ours, theirs in zip(snip_scores(model, loss, [batch()]).values(), by_hand, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_grasp_is_weight_times_hessian_times_gradient(masked: bool) -> None:
    """Hg along the weights that are there only, by differences of the gradient by hand."""
    model = js.prune.random(net(), density=0.6, key=KEY) if masked else net()
    w, masks = kernels(model), [np.asarray(m) for m in js.masks(model).values()]
    g = [m * a for m, a in zip(masks, gradient(w, batch()), strict=True)]
    moved = lambda e: gradient([a + e * b for a, b in zip(w, g, strict=True)], batch())
    hg = [(a - b) / 2e-4 for a, b in zip(moved(1e-4), moved(-1e-4), strict=True)]
    scores = grasp_scores(model, loss, [batch()]).values()
    for ours, a, b in zip(scores, w, hg, strict=True):
        np.testing.assert_allclose(ours, a * b, rtol=1e-3, atol=1e-5)
    assert any((np.asarray(s) < -1e-3).any() for s in scores)  # signed: not absolute values


def test_grasp_keeps_more_of_the_gradient_than_the_other_sign() -> None:
    """What the paper is for: after removing one weight in ten, the gradient is larger."""
    model = net()
    scores = grasp_scores(model, loss, [batch()])

    def norm(scores: dict) -> float:
        small = js.prune.keep_highest(model, scores, 0.9)
        masks = js.masks(small).values()
        g = gradient(kernels(small), batch())
        return sum(float((m * a**2).sum()) for m, a in zip(masks, g, strict=True))

    assert norm(scores) > norm({path: -s for path, s in scores.items()})


def test_synflow_is_the_share_of_the_paths() -> None:
    """Of |W2|^T |W1|^T 1; biases have no part in it."""
    model = net(nnx.relu, bias=True)
    for layer in (model.layers[0], model.layers[2]):
        layer.bias[...] = jnp.ones_like(layer.bias[...])
    a, b = map(np.abs, kernels(model))
    first, second = synflow_scores(model, (1, 4)).values()
    np.testing.assert_allclose(first, a * b.sum(1)[None], rtol=1e-5)
    np.testing.assert_allclose(second, b * a.sum(0)[:, None], rtol=1e-5)
    np.testing.assert_allclose(first.sum(), second.sum(), rtol=1e-5)  # conserved


def test_synflow_of_a_deep_net_is_scaled_not_lost() -> None:
    rngs = nnx.Rngs(0)
    model = held(nnx.Sequential(*(nnx.Linear(4, 4, use_bias=False, rngs=rngs) for _ in range(30))))
    for part in js.prune.held_parts(model).values():
        part.weight[...] = 40 * part.weight[...]  # R is about 2^180
    ours = synflow_scores(model, (1, 4))["layers/7/kernel"]
    w = [np.abs(a) for a in kernels(model)]
    before, after = np.ones(4), np.ones(4)
    for a in w[:7]:
        before = before @ a
    for a in reversed(w[8:]):
        after = a @ after
    exact = w[7] * before[:, None] * after
    assert exact.sum() > np.finfo(np.float32).max
    ratio = np.log2(exact / np.asarray(ours, np.float64))
    np.testing.assert_allclose(ratio, np.round(ratio.mean()), atol=1e-4)  # one power of two


def test_synflow_in_rounds_does_not_cut_the_network() -> None:
    rngs = nnx.Rngs(0)
    model = held(
        nnx.Sequential(nnx.Linear(4, 40, rngs=rngs), nnx.relu, nnx.Linear(40, 40, rngs=rngs))
    )
    with pytest.raises(ValueError, match="collapse"):
        js.prune.synflow(model, (1, 4), density=0.005, rounds=1)
    few = js.masks(js.prune.synflow(model, (1, 4), density=0.005, rounds=50)).values()
    first, second = (np.asarray(mask) for mask in few)
    assert first.sum() + second.sum() == round(0.005 * 1760)
    assert (first.sum(0) @ second).sum() > 0  # a path from input to output


@pytest.mark.parametrize("method", METHODS)
def test_the_density_is_exact_and_masked_weights_stay_masked(method: str) -> None:
    model = net(nnx.relu)
    half = METHODS[method](model, density=0.6, choose=js.prune.globally)
    few = METHODS[method](half, density=0.4, choose=js.prune.globally)
    sums = [sum(int(m.sum()) for m in js.masks(one).values()) for one in (half, few)]
    assert sums == [21, 14]
    for path, mask in js.masks(few).items():
        assert (mask <= js.masks(half)[path]).all()
    assert all((m == 1).all() for m in js.masks(model).values())  # the model given stays


@pytest.mark.parametrize("method", METHODS)
def test_layers_get_their_budget(method: str) -> None:
    model = net(nnx.relu)
    shapes = {path: part.shape for path, part in js.prune.held_parts(model).items()}
    for choose, budget in ((ERK, erdos_renyi_kernel), (js.prune.by_layer(uniform), uniform)):
        kept = js.masks(METHODS[method](model, density=0.5, choose=choose))
        wanted = budget(shapes, 0.5)
        for path, mask in kept.items():
            assert int(mask.sum()) == round(wanted[path] * mask.size)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_would_fall_is_named(method: str) -> None:
    """One weight cannot be in both layers."""
    with pytest.raises(ValueError, match=r"layers/[02]/kernel.*collapse.*erdos_renyi_kernel"):
        METHODS[method](net(), density=0.03, choose=js.prune.globally)
    kept = js.masks(METHODS[method](net(), density=0.03, choose=ERK))
    assert [int(mask.sum()) for mask in kept.values()] == [1, 1]


@pytest.mark.parametrize("scores", [snip_scores, grasp_scores])
def test_batches_are_averaged_in_one_program(scores: Callable) -> None:
    traces = []

    def counted(model, data):
        traces.append(1)
        return loss(model, data)

    model, parts = net(nnx.relu), [batch(seed=n) for n in range(4)]
    whole = tuple(jnp.concatenate(x) for x in zip(*parts, strict=True))
    once = scores(model, loss, [whole])
    ours = scores(model, counted, iter(parts))
    assert len(traces) == (1 if scores is snip_scores else 2)
    for path in once:
        np.testing.assert_allclose(ours[path], once[path], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scores", [snip_scores, grasp_scores])
def test_dropout_is_off_and_batch_norm_sees_the_batch(scores: Callable) -> None:
    norm = lambda x: (x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-5)
    plain = net(norm)
    layers = [
        plain.layers[0],
        nnx.BatchNorm(5, rngs=nnx.Rngs(0)),
        nnx.Dropout(0.5, rngs=nnx.Rngs(0)),
    ]
    model = nnx.Sequential(*layers, plain.layers[2])
    model.eval()
    mean = jnp.array(model.layers[1].mean[...])
    ours, theirs = (list(scores(m, loss, [batch()]).values()) for m in (model, plain))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(model.layers[1].mean[...], mean)
    assert model.layers[2].deterministic and model.layers[1].use_running_average


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "random"])
def test_stacked_and_tied_layers(method: str) -> None:
    data = batch(outputs=4)
    run = {
        "snip": lambda m, **k: js.prune.snip(m, loss, [data], **k),
        "grasp": lambda m, **k: js.prune.grasp(m, loss, [data], **k),
    }.get(method, METHODS[method])
    even = js.prune.by_layer(uniform)
    stacked = js.masks(run(held(Stacked(nnx.Rngs(0))), density=0.25, choose=even))
    assert stacked["layers/kernel"].sum((1, 2)).tolist() == [4, 4, 4]
    tied = run(held(Shared(nnx.Rngs(0))), density=0.5, choose=even)
    assert tied.first.kernel is tied.second.kernel and len(js.masks(tied)) == 1


def test_the_score_of_a_tied_weight_counts_both_places() -> None:
    model, data = held(Shared(nnx.Rngs(0))), batch(outputs=4)
    (ours,) = snip_scores(model, loss, [data]).values()
    first = lambda w: jnp.tanh(data[0] @ w + model.first.bias[...][None])
    out = lambda w: first(w) @ w + model.second.bias[...][None]
    w = model.first.kernel[...]
    g = jax.grad(lambda w: 0.5 * ((out(w) - data[1]) ** 2).sum(-1).mean())(w)
    np.testing.assert_allclose(ours, jnp.abs(g * w), rtol=1e-4, atol=1e-7)


def test_random_masks_follow_their_key_and_favor_nothing() -> None:
    model = net()
    draw = lambda n: js.masks(js.prune.random(model, density=0.5, key=jax.random.key(n)))
    a, b, c = draw(1), draw(1), draw(2)
    assert all((a[p] == b[p]).all() for p in a) and any((a[p] != c[p]).any() for p in a)
    mean = np.mean([draw(n)["layers/0/kernel"] for n in range(40)], axis=0)
    assert abs(mean - 0.5).max() < 0.32  # four deviations


def test_random_masks_do_not_follow_weights_of_the_same_seed() -> None:
    layer = js.sparsify(nnx.Linear(100, 50, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    kept = js.prune.random(layer, density=0.1, key=jax.random.key(0)).kernel
    assert abs(float(kept.read().sum()) / jnp.abs(kept.read()).sum()) < 0.2  # both signs alike


REFUSED = {
    "no batch": (lambda m: js.prune.snip(m, loss, [], density=0.5), "no batches"),
    "rounds": (
        lambda m: js.prune.synflow(m, (1, 4), density=0.5, rounds=0),
        "rounds must be a whole number, 1 or more; got 0",
    ),
    "density": (lambda m: js.prune.synflow(m, (1, 4), density=0.0), "in \\(0, 1\\]"),
    "nothing held": (lambda m: js.prune.magnitude(js.fold(m), density=0.5), "choose weights with"),
    "nan": (
        lambda m: js.prune.snip(m, lambda *a: jnp.nan * loss(*a), [batch()], density=0.5),
        "scores are NaN",
    ),
    "cut": (
        lambda m: js.prune.synflow(
            js.hold(m, {"layers/2/kernel": jnp.zeros((5, 3))}), (1, 4), density=0.5
        ),
        "no signal passes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call(net())
