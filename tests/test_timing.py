"""Calls are timed with the variables as constants or as arguments, whatever these are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jsparse import _timing


class Odd(nnx.Module):
    """Variables of many kinds; a call writes one."""

    def __init__(self):
        self.number, self.scale = nnx.Variable(2), nnx.Variable(np.float32(3))
        self.key = nnx.Variable(jax.random.key(0))
        self.small = nnx.Param(jnp.ones((4,), jnp.int8))
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] = self.calls[...] + 1
        return x + jax.random.normal(self.key[...], x.shape)


@pytest.mark.parametrize("most", [-1, _timing.CONSTANT])
def test_unusual_variables_are_timed(monkeypatch, most):
    monkeypatch.setattr(_timing, "CONSTANT", most)
    model = Odd()
    assert _timing.clock(model, jnp.ones(3))(2) > 0
    assert model.calls[...] == 0
