"""Permutations before N:M: the same outputs, more magnitude kept."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse.prune import permute

FOUR = js.Groups(4)


class Net(nnx.Module):
    """A residual stream of convolutions, a concatenation and attention."""

    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Conv(8, 8, (1, 1), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, 16, decode=False, rngs=rngs)
        self.out = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.a(x)
        x = x + self.norm(self.b(nnx.relu(x)))
        x = jnp.concatenate([x, x[..., ::-1]], -1)[..., :8].reshape(len(x), -1, 8)
        return self.out(jnp.concatenate([self.attention(x), nnx.relu(x)], -1))


def kept(weight: np.ndarray) -> float:
    """The part of the magnitude in the two largest of each 4 inputs, [inputs, outputs]."""
    size = np.abs(np.asarray(weight)).T.reshape(-1, 4)
    return np.sort(size)[:, 2:].sum() / size.sum()


@pytest.mark.standard_dtypes
def test_outputs_stay_and_more_is_kept() -> None:
    model = Net(nnx.Rngs(0))
    model.norm.mean[...] = jnp.arange(8.0)
    model.eval()
    skip = js.Groups(4, skip=True)
    better, found = permute(model, (1, 4, 4, 3), density=0.5, scope=skip)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    np.testing.assert_allclose(better(x), model(x), rtol=1e-4, atol=1e-5)
    assert set(found) == {"b/kernel", "out/kernel"} | {
        f"attention/{name}/kernel" for name in ("query", "key", "value", "out")
    }
    assert found["out/kernel"] == pytest.approx(
        [kept(one.out.kernel[...]) for one in (model, better)], rel=1e-5
    )
    before, after = np.transpose(list(found.values()))
    assert after.sum() > before.sum() + 0.01


def mlp(weight: np.ndarray) -> nnx.Sequential:
    """Whose second layer has this weight, [8, outputs]."""
    first, second = (nnx.Linear(i, o, rngs=nnx.Rngs(0)) for i, o in ((4, 8), (8, weight.shape[1])))
    second.kernel[...] = jnp.asarray(weight, jnp.float32)
    return nnx.Sequential(first, nnx.relu, second)


def test_the_best_order_is_found_or_nearly() -> None:
    draw = np.random.default_rng(0)
    gains = []
    for n in range(5):
        weight = draw.normal(size=(8, 6))
        if n == 0:  # four large inputs, which stand together
            weight = np.where(np.arange(8) < 4, 5.0, 0.1)[:, None] * np.ones((8, 3))
        _, found = permute(mlp(weight), (1, 4), density=0.5, scope=FOUR)
        before, after = found["layers/2/kernel"]
        assert before == pytest.approx(kept(weight), rel=1e-5)
        rest = lambda first: [k for k in range(8) if k not in first]
        orders = [[*one, *rest(one)] for one in itertools.combinations(range(8), 4)]
        best = max(kept(weight[order]) for order in orders)
        assert before <= after <= best + 1e-6
        gains.append((after - before) / (best - before))
    assert gains[0] == pytest.approx(1) and np.mean(gains) > 0.8


class Shared(nnx.Module):
    """Two layers with one kernel, the later one the first by name."""

    def __init__(self, rngs: nnx.Rngs):
        self.z, self.a, self.i = (nnx.Linear(n, 8, rngs=rngs) for n in (8, 8, 4))
        self.a.kernel = self.z.kernel

    def __call__(self, x: Array) -> Array:
        return self.a(nnx.relu(self.z(nnx.relu(self.i(x))))).sum(-1)


def test_a_shared_weight_is_permuted_by_any_of_its_paths() -> None:
    for weights in ("z/kernel", "a/kernel"):
        _, found = permute(Shared(nnx.Rngs(0)), (1, 4), density=0.5, scope=FOUR, weights=weights)
        ((before, after),) = found.values()
        assert after > before + 1e-4


def test_what_cannot_be_permuted_is_said() -> None:
    model = mlp(np.ones((8, 2)))
    with pytest.raises(ValueError, match=r"layers/0/kernel: axis 0 has length 4, not a multiple"):
        permute(model, (1, 4), density=0.5, scope=js.Groups(8))
    with pytest.raises(TypeError, match=r"scope must be Groups\(M\), such as Groups\(4\)"):
        permute(model, (1, 4), density=0.5, scope=js.Whole())
    ruled = js.sparsify(model, (".*kernel", js.Top(density=0.5, scope=FOUR)))
    with pytest.raises(ValueError, match="layers/0/kernel is under a rule; permute the dense"):
        permute(ruled, (1, 4), density=0.5, scope=FOUR)
    with pytest.raises(ValueError, match=r"layers/0/bias: Groups\(4\) needs an input axis"):
        permute(model, (1, 4), density=0.5, scope=FOUR, weights=".*/bias")
    with pytest.raises(ValueError, match=r"layers/2/kernel: the weight has entries that are not f"):
        permute(mlp(np.full((8, 2), np.nan)), (1, 4), density=0.5, scope=FOUR)
