"""Sizes that modules of one's own store: named, mended, or found by trying."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from tests.support.zoo_cases import vectors

pytestmark = pytest.mark.standard_dtypes


class Sized(nnx.Module):
    """Two products in one weight, split at a width that it stores."""

    def __init__(self, rngs: nnx.Rngs):
        self.width = 8
        self.both, self.last = nnx.Linear(6, 24, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        gate, a, b = jnp.split(self.both(x), [self.width, 2 * self.width], axis=-1)
        return self.last(nnx.sigmoid(gate) * a * b)


class Doubtful(Sized):
    """Splits at the smaller one of two sizes that it stores."""

    def __init__(self, rngs: nnx.Rngs):
        super().__init__(rngs)
        self.most = 8

    def __call__(self, x: Array) -> Array:
        width = min(self.width, self.most)
        gate, a, b = jnp.split(self.both(x), [width, 2 * width], axis=-1)
        return self.last(nnx.sigmoid(gate) * a * b)


def sized(kind: type[Sized] = Sized) -> Sized:
    model = kind(nnx.Rngs(0))
    model.last.kernel[...] = model.last.kernel[...].at[jnp.array([1, 5])].set(0.0)
    return model


def widths(module: nnx.Module) -> dict[str, Any]:
    return {"width": module.last.in_features} if isinstance(module, Sized) else {}


def test_sizes_of_own_modules_are_named_and_mended() -> None:
    model, x = sized(Doubtful), vectors(0, 4)
    small, record = js.shrink(model, x)
    assert small.last.in_features == 8
    assert "`mul` at" in record.stayed["last/kernel"]
    assert re.search(
        r"`mend` may set (width|most) \(8\), (most|width) \(8\)$", record.stayed["last/kernel"]
    )
    check_narrow(model, *js.shrink(model, x, mend=widths))


def test_the_only_size_that_makes_the_smaller_model_right_is_found() -> None:
    model, found = sized(), pytest.warns(UserWarning, match=r"^width: set to the new size")
    with found:
        check_narrow(model, *js.shrink(model, vectors(0, 4)))
    held = js.sparsify(model, ("last/kernel", js.Held()))
    held = js.hold(held, {"last/kernel": (model.last.kernel[...] != 0).astype(float)})
    with found:
        small, _, record = js.shrink_training(
            held, js.Optimizer(held, optax.sgd(0.1)), vectors(0, 4)
        )
    assert small.width == 6 and record.attributes[""] == {"width": 6}
    with found:
        js.prune.units(model, vectors(0, 4), density=0.5)


class Heads(nnx.Module):
    """Heads whose number and width it stores, after a mean over a stream."""

    def __init__(self, rngs: nnx.Rngs):
        self.heads, self.dim = 4, 3
        self.first, self.norm = nnx.Linear(5, 6, rngs=rngs), nnx.LayerNorm(6, rngs=rngs)
        self.wide, self.last = nnx.Linear(6, 12, rngs=rngs), nnx.Linear(12, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        heads = self.wide(self.norm(self.first(x))).reshape(len(x), self.heads, self.dim)
        return self.last(nnx.softmax(heads).reshape(len(x), -1))


def test_a_mean_before_an_error_does_not_hide_the_sizes() -> None:
    found = js.groups(Heads(nnx.Rngs(0)), (2, 5))
    free = {group.name: group.width for group in found if not group.held}
    assert free == {"first/kernel:1": 6, "wide/kernel:1": 4}


class Three(nnx.Module):
    """Linear attention that splits heads in one line by three sizes that it stores."""

    def __init__(self, rngs: nnx.Rngs):
        self.heads, self.keys, self.values = 2, 6, 9
        self.q, self.k = nnx.Linear(5, 12, rngs=rngs), nnx.Linear(5, 12, rngs=rngs)
        self.v, self.o = nnx.Linear(5, 18, rngs=rngs), nnx.Linear(18, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        split = lambda y, width: y.reshape(*x.shape[:-1], self.heads, width)
        q, k, v = split(self.q(x), self.keys), split(self.k(x), self.keys), self.v(x)
        a = jnp.einsum("blhk,bmhk->bhlm", q, k)
        y = jnp.einsum("bhlm,bmhv->blhv", a, split(v, self.values))
        return self.o(y.reshape(*x.shape[:-1], -1))


def test_three_sizes_that_one_line_reads_are_found_together() -> None:
    groups = js.groups(Three(nnx.Rngs(0)), (2, 7, 5))
    assert {g.width for g in groups if not g.held} == {2, 6, 9}


class Limited(Sized):
    """Reads its width as a limit of a length too."""

    def limited(self, x: Array) -> Array:
        return x[: self.width]

    def __call__(self, x: Array) -> Array:
        return super().__call__(self.limited(x))


class Latest(Limited):
    def limited(self, x: Array) -> Array:
        return x[-2 * self.width :]


class Longer(Limited):
    def limited(self, x: Array) -> Array:
        return x[::-1] if len(x) > self.width else x


class Shorter(Limited):
    def limited(self, x: Array) -> Array:
        return x if len(x) > 4 and len(x) < self.width else x[::-1]


class AtLeast(Limited):
    def limited(self, x: Array) -> Array:
        return x / max(len(x), self.width - 4)


class InParts(Limited):
    def limited(self, x: Array) -> Array:
        size = min(len(x), self.width)
        return (x.reshape(-1, size, 6) / size).reshape(x.shape)


class Added(Sized):
    def __call__(self, x: Array) -> Array:
        return super().__call__(x) * (len(x) + self.width)


class Halved(Sized):
    def __call__(self, x: Array) -> Array:
        return super().__call__(x) * (1.0 if len(x) < self.width - 3 else 0.5)


KINDS = [Limited, Latest, Longer, Shorter, AtLeast, InParts, Added, Halved]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_also_limit_a_length_are_refused_by_name(kind: type[Sized]) -> None:
    small, record = js.shrink(sized(kind), vectors(0, 4))
    assert small.width == 8
    assert "width fits the example, but not inputs of shape (" in record.stayed["last/kernel"]


def test_a_size_that_also_limits_a_length_holds_its_group() -> None:
    groups = js.groups(sized(Limited), vectors(0, 4))
    assert "width fits the example" in groups["both/kernel:1"].held


class Refusing(Sized):
    """Lets nobody change its width."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "width" and hasattr(self, name):
            raise AttributeError("the width is fixed")
        super().__setattr__(name, value)


class Calling(Sized):
    """Reads its width in code that no trace shows."""

    def __call__(self, x: Array) -> Array:
        y, width = super().__call__(x), self.width
        return jax.pure_callback(lambda y: np.asarray(y) * np.float32(width), y, y)


@pytest.mark.parametrize("kind", [Refusing, Calling])
def test_sizes_that_cannot_be_tried_stay(kind: type[Sized]) -> None:
    model, x = sized(kind), vectors(0, 4)
    small, record = js.shrink(model, x)
    assert small.width == small.last.in_features == 8 and record.stayed
    np.testing.assert_array_equal(small(x), model(x))


def check_narrow(model: Sized, small: Any, record: js.export.Record) -> None:
    """Check that 2 of 8 units are gone, and that the record says how."""
    x = vectors(1, 4)
    assert (small.width, small.last.in_features, small.both.out_features) == (6, 6, 18)
    assert record.attributes[""] == {"width": 6} and not record.stayed
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)
    again = js.export.rebuild(model, js.export.Record.from_dict(record.to_dict()))
    nnx.update(again, nnx.state(small))
    np.testing.assert_array_equal(again(x), small(x))


def test_errors_of_mend() -> None:
    wrong = {
        "mend of the model .* names 'wide'; the sizes that it stores are: width": {"wide": 3},
        "width is 3.0; give an int": {"width": 3.0},
    }
    for message, given in wrong.items():
        mend = lambda module, given=given: given if isinstance(module, Sized) else {}
        with pytest.raises((ValueError, TypeError), match=message):
            js.shrink(sized(), vectors(0, 4), mend=mend)
    with pytest.raises(TypeError, match="gave NoneType; return a dict"):
        js.shrink(sized(), vectors(0, 4), mend=lambda module: None)  # type: ignore[arg-type]
