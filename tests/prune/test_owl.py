"""OWL: the formula of the paper, and the densities in the pruning methods."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.prune import owl, sparsegpt, wanda

X = jax.random.normal(jax.random.key(0), (20, 6)) * jnp.array([[1.0, 1, 1, 1, 1, 9]])


def held() -> nnx.Module:
    widths = (6, 10, 10, 4)
    layers = [nnx.Linear(i, o, rngs=nnx.Rngs(i + o)) for i, o in itertools.pairwise(widths)]
    return js.sparsify(nnx.Sequential(*layers), (".*kernel", js.Held()))


def by_hand(model: nnx.Module, layers: list[list[int]], outlier: float, spread: float) -> list:
    """The density of each layer around 0.4, all of whose weights count."""
    sizes, x = [], np.asarray(X, np.float64)
    for layer in model.layers:
        weight = np.asarray(layer.kernel.weight[...], np.float64)
        sizes.append(np.abs(weight) * np.linalg.norm(x, axis=0)[:, None])
        x = x @ weight + np.asarray(layer.bias[...])
    joined = [np.concatenate([sizes[n].ravel() for n in own]) for own in layers]
    parts = np.array([(one > outlier * one.mean()).mean() for one in joined])
    shares = (parts - parts.min()) / np.ptp(parts) * 2 * spread
    weights = [len(one) for one in joined]
    return (shares - np.average(shares, weights=weights) + 0.4).tolist()


@pytest.mark.parametrize(
    ("layers", "own"), [(".*", [[0], [1], [2]]), ("layers/0|layers", [[0], [1, 2]])]
)  # fmt: skip
def test_the_densities_are_those_of_the_paper(layers: str, own: list[list[int]]) -> None:
    model = held()
    found = owl(model, [X[:12], X[12:]], density=0.4, layers=layers, outlier=2.0, spread=0.1)
    expected = by_hand(model, own, 2.0, 0.1)
    each = {n: expected[k] for k, one in enumerate(own) for n in one}
    assert found == pytest.approx({f"layers/{n}/kernel": d for n, d in each.items()}, abs=1e-6)
    sizes = {path: mask.size for path, mask in js.masks(model).items()}
    total = sum(found[path] * size for path, size in sizes.items()) / sum(sizes.values())
    assert total == pytest.approx(0.4)


def test_wanda_and_sparsegpt_take_a_density_for_each_weight() -> None:
    model = held()
    wanted = {"layers/0/kernel": 1 / 3, "layers/1/kernel": 0.8, "layers/2/kernel": 0.5}
    for method in (wanda, sparsegpt):
        masks = js.masks(method(model, [X], density=wanted))
        assert {path: float(mask.mean()) for path, mask in masks.items()} == pytest.approx(wanted)
    with pytest.raises(ValueError, match="density has no density for 'layers/2/kernel'"):
        wanda(model, [X], density={"layers/0/kernel": 0.5, "layers/1/kernel": 0.5})
    with pytest.raises(ValueError, match="names, where no weight is under Held, 'x'"):
        wanda(model, [X], density={**wanted, "x": 0.5})
    with pytest.raises(ValueError, match="layers/0/kernel: density is the fraction"):
        wanda(model, [X], density={**wanted, "layers/0/kernel": 0})


def test_what_owl_cannot_do_is_said() -> None:
    model = held()
    with pytest.raises(ValueError, match=r"spread 0\.4 gives densities from .* use a smaller"):
        owl(model, [X], density=0.9, layers=".*", outlier=2.0, spread=0.4)
    with pytest.raises(ValueError, match="layers='blocks' matches no path"):
        owl(model, [X], density=0.5, layers="blocks")
    even = owl(model, [X], density=0.5, layers=".*", outlier=1e6)
    assert set(even.values()) == {0.5}
