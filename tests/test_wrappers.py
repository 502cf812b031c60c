"""Layers of Flax that write the weights of another one are refused, and never change a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse._variables import WRAPPERS, Learned, Mask, Setting
from tests.support.cases import RULES
from tests.support.sampled import one_in

pytestmark = [
    pytest.mark.skipif(not WRAPPERS, reason="flax 0.11 has no such layers"),
    pytest.mark.standard_dtypes,
]
MADE = {
    "WeightNorm": lambda layer: nnx.WeightNorm(layer, rngs=nnx.Rngs(1)),
    "WeightNorm without scale": lambda layer: nnx.WeightNorm(
        layer, use_scale=False, rngs=nnx.Rngs(1)
    ),
    "SpectralNorm": lambda layer: nnx.SpectralNorm(layer, rngs=nnx.Rngs(1)),
}
X = jnp.ones((2, 6))


def linear() -> nnx.Module:
    return nnx.Linear(6, 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("wrap", MADE)
def test_sparsify_names_the_wrapper(wrap: str) -> None:
    model = nnx.List([MADE[wrap](linear()), linear()])
    name = wrap.split()[0]
    with pytest.raises(ValueError, match=rf"^0/layer_instance/kernel: nnx.{name} writes .* dense"):
        js.sparsify(model, (".*/kernel", js.Held()))
    beside = js.sparsify(model, ("1/kernel", js.Held()))
    beside[0](X)
    assert list(js.masks(beside)) == ["1/kernel"]


@pytest.mark.parametrize("wrap", MADE)
@pytest.mark.parametrize("rule", one_in(2, RULES))
def test_a_wrapper_around_a_sparse_layer_changes_no_state(rule: str, wrap: str) -> None:
    """It is refused where it would write masks, thresholds or scores; weights it may write."""
    layer, name = js.sparsify(linear(), ("kernel", RULES[rule])), wrap.split()[0]
    state = nnx.state(layer, nnx.Any(Learned, Mask, Setting))
    before = jax.tree.map(jnp.copy, state)
    axes = [leaf.ndim for leaf in jax.tree.leaves(nnx.state(layer, (Learned, Mask, Setting)))]
    stopped = name == "WeightNorm" and axes
    learned = [leaf.ndim for leaf in jax.tree.leaves(nnx.state(layer, Learned))]
    stopped = stopped or (name == "SpectralNorm" and max(learned, default=0) > 1)
    try:
        MADE[wrap](layer)(X)
    except TypeError as error:
        assert stopped and f"nnx.{name} writes normalized values" in str(error)
    else:
        assert not stopped
    after = nnx.state(layer, nnx.Any(Learned, Mask, Setting))
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize("use", [js.masks, js.cost, js.fold, js.resolve, js.hold])
def test_a_model_of_both_is_refused(use) -> None:
    model = MADE["WeightNorm"](js.sparsify(linear(), ("kernel", js.Top(density=0.5))))
    with pytest.raises(ValueError, match=r"layer_instance/kernel: nnx.WeightNorm writes"):
        use(model)


@pytest.mark.parametrize("wrap", ["WeightNorm", "SpectralNorm"])
def test_shrink_names_the_wrapper_and_cuts_the_layer_in_its_place(wrap: str) -> None:
    settings = {"update_stats": False} if wrap == "SpectralNorm" else {}

    class Net(nnx.Module):
        """A wrapped layer that is read in half."""

        def __init__(self) -> None:
            self.a, self.b = MADE[wrap](linear()), nnx.Linear(4, 2, rngs=nnx.Rngs(2))
            self.b.kernel[...] = self.b.kernel[...].at[2:].set(0.0)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(nnx.relu(self.a(x, **settings)))

    net = Net()
    y = net(X)
    small, record = js.shrink(net, X)
    if any(isinstance(scale, nnx.Param) for scale in getattr(net.a, "scales", {}).values()):
        # so in Flax 0.12.12: all that the wrapper computes with can be cut
        assert small.a.layer_instance.kernel.shape == (6, 2) and not record.stayed
        np.testing.assert_allclose(small(X), y, rtol=1e-5, atol=1e-6)
        return
    assert small.b.kernel.shape == (4, 2)
    assert f"{wrap} computes the weights of the layer in it at each call" in record.stayed["a"]
    net.a = net.a.layer_instance
    settings.clear()
    small, record = js.shrink(net, X)
    assert small.a.kernel.shape == (6, 2) and not record.stayed
    np.testing.assert_allclose(small(X), y, rtol=1e-5, atol=1e-6)
