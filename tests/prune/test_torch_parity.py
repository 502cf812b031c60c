"""Every function of torch.nn.utils.prune has a one-line equivalent, with the same masks.

The expected masks are in golden/torch_prune.npz beside this file; golden/torch_prune.py makes them
anew, with torch.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse import Block, Channel, Filter
from jsparse.prune import drop_lowest, drop_lowest_globally, noise, norm, norm_of
from tests.support.cases import Stacked

GOLDEN = np.load(Path(__file__).parent / "golden" / "torch_prune.npz")
NAMES = ("fc", "out", "conv", "seq", "tiny")
INF = float("inf")


def ours(array: np.ndarray) -> jax.Array:
    """PyTorch's [outputs, inputs, window] to [window, inputs, outputs]."""
    return jnp.asarray(array.transpose(*range(2, array.ndim), 1, 0))


class Net(nnx.Module):
    """A layer for each tensor of the golden file."""

    def __init__(self, rngs: nnx.Rngs):
        self.fc = nnx.Linear(20, 12, rngs=rngs)
        self.out = nnx.Linear(12, 5, rngs=rngs)
        self.conv = nnx.Conv(6, 8, (3, 3), rngs=rngs)
        self.seq = nnx.Conv(4, 6, (5,), rngs=rngs)
        self.tiny = nnx.Linear(5, 1, rngs=rngs)
        for name in NAMES:
            getattr(self, name).kernel[...] = ours(GOLDEN[f"tensor/{name}"])


@pytest.fixture(scope="module")
def net() -> nnx.Module:
    return js.sparsify(Net(nnx.Rngs(0)), (".*/kernel", js.Held()))


SCORES = {f"{name}/kernel": ours(GOLDEN[f"scores/{name}"]) for name in NAMES}


def nuclear(path: str, weight: jax.Array, tile: tuple[int, ...]) -> jax.Array:
    """A score of one's own: the nuclear norm of each filter [window, inputs]."""
    return jnp.linalg.norm(weight, "nuc", axis=(0, 1), keepdims=True)


def three_times(m: nnx.Module) -> nnx.Module:
    for _ in range(3):
        m = drop_lowest(m, "fc/kernel", 0.2, norm(1))
    return m


def repeatedly(m: nnx.Module) -> nnx.Module:
    m = drop_lowest(m, "conv/kernel", 0.3, norm(1))
    m = drop_lowest(m, "conv/kernel", 0.25, norm(2), Filter())
    m = drop_lowest(m, "conv/kernel", 2, norm(1), Channel())
    return drop_lowest(m, "conv/kernel", 10, norm(1))


def twice_globally(m: nnx.Module) -> nnx.Module:
    m = drop_lowest(m, "fc/kernel", 0.5, norm(1))
    for amount in (0.3, 20):
        m = drop_lowest_globally(m, "(fc|out)/kernel", amount, norm(1))
    return m


def two_masks(m: nnx.Module) -> nnx.Module:
    for positive in (m.fc.kernel.weight[...] > 0, SCORES["fc/kernel"] > 0):
        own = js.masks(m)["fc/kernel"]
        m = js.hold(m, {"fc/kernel": positive.astype(own.dtype) * own})
    return m


BOTH = "(fc|out)/kernel"
SAME: dict[str, Callable] = {
    "identity": lambda m: m,
    "l1 count": lambda m: drop_lowest(m, "fc/kernel", 37, norm(1)),
    "l1 fraction": lambda m: drop_lowest(m, "fc/kernel", 0.3, norm(1)),
    "l1 half of five": lambda m: drop_lowest(m, "tiny/kernel", 0.5, norm(1)),
    "l1 none": lambda m: drop_lowest(m, "fc/kernel", 0, norm(1)),
    "l1 three times": three_times,
    "l1 by scores": lambda m: drop_lowest(m, "fc/kernel", 0.4, norm_of(SCORES, 1)),
    "ln by scores": lambda m: drop_lowest(m, "conv/kernel", 3, norm_of(SCORES, 2), Filter()),
    "fro": lambda m: drop_lowest(m, "seq/kernel", 0.5, norm(2), Filter()),
    "nuc": lambda m: drop_lowest(m, "seq/kernel", 0.5, nuclear, Filter()),
    "repeatedly": repeatedly,
    "global fraction": lambda m: drop_lowest_globally(m, BOTH, 0.4, norm(1)),
    "global count": lambda m: drop_lowest_globally(m, BOTH, 55, norm(1)),
    "global by scores": lambda m: drop_lowest_globally(m, BOTH, 0.4, norm_of(SCORES, 1)),
    "global twice": twice_globally,
    "two masks": two_masks,
}
# `dim` of PyTorch: outputs, inputs, rows and columns of the window
UNITS = (Filter(), Channel(), Block((1, 3, 6, 8)), Block((3, 1, 6, 8)))
for n in (1, 2, 3.5, INF, -INF):
    for dim, unit in enumerate(UNITS):
        SAME[f"ln {n} along {dim}"] = lambda m, n=n, unit=unit: drop_lowest(
            m, "conv/kernel", 0.34, norm(n), unit
        )


@pytest.mark.parametrize("case", SAME)
def test_the_same_masks(case: str, net: nnx.Module) -> None:
    masks = js.masks(SAME[case](net))
    compared = 0
    for name in NAMES:
        mask = np.asarray(masks[f"{name}/kernel"])
        if f"{case}/{name}" in GOLDEN:
            np.testing.assert_array_equal(mask, ours(GOLDEN[f"{case}/{name}"]))
            compared += 1
        else:
            assert (mask == 1).all()  # no other tensor is touched
    assert compared


RANDOM: dict[str, Callable] = {
    "random": lambda m, key: drop_lowest(m, "fc/kernel", 0.3, noise(key)),
    "random structured": lambda m, key: drop_lowest(m, "conv/kernel", 0.4, noise(key), Filter()),
    "random global": lambda m, key: drop_lowest_globally(m, BOTH, 0.3, noise(key)),
}


@pytest.mark.parametrize("case", RANDOM)
def test_random_masks_drop_as_many(case: str, net: nnx.Module) -> None:
    first, again, other = (js.masks(RANDOM[case](net, jax.random.key(n))) for n in (1, 1, 2))
    there = [name for name in NAMES if f"{case}/{name}" in GOLDEN]
    count = sum(int(first[f"{name}/kernel"].sum()) for name in there)
    assert count == sum(int(GOLDEN[f"{case}/{name}"].sum()) for name in there)
    same = lambda a, b: all((a[path] == b[path]).all() for path in a)
    assert same(first, again) and not same(first, other)


def test_every_function_of_torch_and_every_case_is_compared() -> None:
    cases = {name.rpartition("/")[0] for name in GOLDEN.files} - {"tensor", "scores", ""}
    assert cases == {*SAME, *RANDOM}
    assert json.loads(str(GOLDEN["settings"]))["functions"] == [
        "custom_from_mask",  # hold
        "global_unstructured",  # drop_lowest_globally
        "identity",  # sparsify with Held
        "is_pruned",  # masks
        "l1_unstructured",  # drop_lowest with norm or norm_of
        "ln_structured",  # the same with a unit
        "random_structured",  # drop_lowest with noise and a unit
        "random_unstructured",  # the same without
        "remove",  # fold
    ]


def test_is_pruned_and_remove(net: nnx.Module) -> None:
    assert js.masks(net)  # is_pruned
    pruned = drop_lowest(net, "fc/kernel", 0.3, norm(1))
    plain = js.fold(pruned)  # remove
    assert not js.masks(plain) and isinstance(plain.fc.kernel, nnx.Param)
    np.testing.assert_array_equal(plain.fc.kernel[...], pruned.fc.kernel[...])
    assert int((plain.fc.kernel[...] == 0).sum()) == 72
    np.testing.assert_array_equal(plain.out.kernel[...], ours(GOLDEN["tensor/out"]))


def test_a_failure_leaves_the_model_as_it_was(net: nnx.Module) -> None:
    before = js.masks(net)
    with pytest.raises(ValueError, match="out/kernel"):
        drop_lowest(net, BOTH, 100, norm(1))
    assert all((js.masks(net)[path] == before[path]).all() for path in before)


def test_each_layer_of_a_stack_by_itself() -> None:
    model = js.sparsify(Stacked(nnx.Rngs(0)), (".*/kernel", js.Held()))
    model.layers.kernel.weight[...] = jnp.arange(48.0).reshape(3, 4, 4) + 1
    model = drop_lowest(model, ".*", 0.25, norm(1))
    assert js.masks(model)["layers/kernel"].sum((1, 2)).tolist() == [12, 12, 12]
    model = drop_lowest(model, ".*", 1, norm(1), Filter())
    # the first row went before: of the three left in each column the last ones are largest
    assert js.masks(model)["layers/kernel"].sum((1, 2)).tolist() == [9, 9, 9]
    assert (js.masks(model)["layers/kernel"][:, :, 0] == 0).all()


def test_ragged_blocks_have_the_norm_of_what_is_there() -> None:
    weight = jnp.array([[3.0, 1.0, 2.0]])
    for n, want in ((INF, [3, 2]), (-INF, [1, 2]), (1, [4, 2]), (0, [2, 1])):
        assert norm(n)("w", weight, (1, 2)).tolist() == [want]


REFUSED = {
    "negative": (-1, norm(1), ValueError, "fc/kernel: amount is a number"),
    "fraction": (1.5, norm(1), ValueError, "fraction in \\[0, 1\\]; got 1.5"),
    "nan": (float("nan"), norm(1), ValueError, "fraction in"),
    "word": ("half", norm(1), TypeError, "got 'half'"),
    "flag": (True, norm(1), TypeError, "got True"),
    "too many": (241, norm(1), ValueError, "241 of the 240 remaining units"),
    "all": (1.0, norm(1), ValueError, "no signal would pass; drop at most 239"),
    "absent": (0.1, norm_of({}, 1), ValueError, "has no score; available: none"),
    "shape": (0.1, norm_of({"fc/kernel": jnp.ones(3)}, 1), ValueError, "shape \\(3,\\)"),
    "grid": (0.1, lambda p, w, t: jnp.ones(3), ValueError, "one score for each unit"),
    "score": (0.1, lambda p, w, t: w * jnp.nan, ValueError, "NaN or infinite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, net: nnx.Module) -> None:
    amount, by, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        drop_lowest(net, "fc/kernel", amount, by)


def test_what_is_refused_globally(net: nnx.Module) -> None:
    with pytest.raises(ValueError, match="tiny/kernel: nothing would be left"):
        small = norm_of({path: s * float(path != "tiny/kernel") for path, s in SCORES.items()}, 1)
        drop_lowest_globally(net, "(fc|tiny)/kernel", 10, small)
    with pytest.raises(ValueError, match="matches no parameter"):
        drop_lowest_globally(net, "x", 1, norm(1))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_norms_of_units_rank_alike_at_any_size(n: int) -> None:
    weight = jax.random.normal(jax.random.key(0), (3, 4, 5))
    plain = norm(n)("w", weight, (3, 4, 1))
    for size in (2.0**70, 2.0**-90):
        scaled = norm(n)("w", weight * size, (3, 4, 1))
        np.testing.assert_allclose(scaled / size, plain, rtol=1e-5)
