import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._slots import walk_modules
from jsparse.export import Record, rebuild
from tests.support.sampled import one_in
from tests.support.zoo_cases import CASES, FRESH, attribute, outputs, prepared, shapes

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers


def plain(module: nnx.Module) -> dict[str, Any]:
    kinds = int | float | str | bool | tuple
    return {k: v for k, v in vars(module).items() if isinstance(v, kinds) and k[0] != "_"}


@pytest.mark.parametrize("name", one_in(2, CASES))
def test_zoo(name: str) -> None:
    case = CASES[name]
    model = prepared(case.make, case.dead)
    before = shapes(model)
    small, record = js.shrink(model, case.inputs(0, 2))
    assert shapes(model) == before
    changed = {path: s for path, s in shapes(small).items() if s != before[path]}
    if case.shapes:
        assert changed == case.shapes
    for path, value in case.attributes.items():
        assert attribute(small, path) == value, path
    found = dict(walk_modules(small))
    for path, make in FRESH.get(name, {}).items():  # as if made at that size
        for inner, module in walk_modules(
            nnx.eval_shape(lambda make=make: make(nnx.Rngs(0))), path
        ):
            assert plain(found[inner]) == plain(module)
    fresh = case.inputs(1, 3)
    expected = outputs(model, fresh)
    np.testing.assert_allclose(outputs(small, fresh), expected, rtol=1e-4, atol=1e-5)

    data = json.loads(json.dumps(record.to_dict()))
    again = rebuild(case.make(rngs=nnx.Rngs(1)), Record.from_dict(data))
    assert shapes(again) == shapes(small)
    nnx.update(again, nnx.state(small))
    np.testing.assert_array_equal(outputs(again, fresh), outputs(small, fresh))


@pytest.mark.skipif(not hasattr(nnx, "data"), reason="arrays that are no variables: flax 0.12")
def test_a_plain_array_is_named_if_it_may_be_a_weight() -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            self.a, self.b = (nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in range(2))
            self.a.kernel[...] = self.a.kernel[...].at[:, 3].set(0.0)
            self.scale, self.places = nnx.data(jnp.array(2.0)), nnx.data(jnp.arange(4))
            self.table = nnx.data(jnp.ones((1, 4)))

        def __call__(self, x: Array) -> Array:
            return self.b(self.a(x[:, self.places]) * self.scale * self.table)

    small, record = js.shrink(Net(), jnp.ones((2, 4)))
    assert small.a.kernel.shape == (4, 4)
    assert record.stayed["table"].startswith("a plain array, which shrink does not cut")
    assert not {"scale", "places"} & record.stayed.keys()
    with pytest.raises(ValueError, match="held are a/kernel: table is not a weight"):
        js.prune.units(Net(), jnp.ones((2, 4)), density=0.5)
