"""Scores with one layer pruned: by hand, in one compilation, as a table and a page."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jsparse import WholeModel
from jsparse.report import sensitivity

X = jax.random.normal(jax.random.key(0), (8, 4))


def net() -> nnx.Sequential:
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.relu, nnx.Linear(6, 3, rngs=rngs))


def test_each_layer_is_pruned_by_itself_and_all_compile_once(tmp_path: Path) -> None:
    model, calls = net(), []

    def score(model: nnx.Module, x: jax.Array) -> jax.Array:
        calls.append(1)
        return model(x).mean()

    found = sensitivity(model, score, [X[:4], X[4:]], densities=(0.25, 0.5))
    assert len(calls) == 1 and found.densities == (0.5, 0.25)
    assert found.whole == pytest.approx(float(model(X).mean()), abs=1e-6)
    for n, path in ((0, "layers/0/kernel"), (2, "layers/2/kernel")):
        for k, density in enumerate(found.densities):
            pruned = nnx.clone(model)
            kernel = np.array(pruned.layers[n].kernel[...])
            lowest = np.argsort(np.abs(kernel).ravel())[
                : kernel.size - round(density * kernel.size)
            ]
            kernel.ravel()[lowest] = 0
            pruned.layers[n].kernel[...] = jnp.asarray(kernel)
            assert found.scores[path][k] == pytest.approx(float(pruned(X).mean()), abs=1e-6)
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "50.00%", "25.00%"] and lines[-1].startswith("none")
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    text = found.page(tmp_path / "page.html").read_text()
    assert "One layer at a time" in text and text.count("<figure>") == 1
    assert "<span>layers/2/kernel</span>" in text


def test_what_cannot_be_scored_is_refused() -> None:
    good = lambda model, x: model(x).mean()
    with pytest.raises(ValueError, match=r"score must give one number; got an array float32\[8\]"):
        sensitivity(net(), lambda model, x: model(x).mean(-1), [X])
    with pytest.raises(TypeError, match=r"densities must be a tuple .* pass \(0\.5,\)"):
        sensitivity(net(), good, [X], densities=0.5)
    with pytest.raises(ValueError, match="pattern 'conv' matches no parameter"):
        sensitivity(net(), good, [X], weights="conv")
    with pytest.raises(ValueError, match="score must give one number; got None"):
        sensitivity(net(), lambda model, x: None, [X])
    with pytest.raises(ValueError, match="score must give one number; got a dict"):
        sensitivity(net(), lambda model, x: {"loss": x.sum(), "accuracy": x.mean()}, [X])
    with pytest.raises(ValueError, match="no batches"):
        sensitivity(net(), good, iter([]))
    with pytest.raises(ValueError, match="scope is within a layer"):
        sensitivity(net(), good, [X], scope=WholeModel())
