import itertools
from types import MappingProxyType

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._paths import path_of
from jsparse._slots import slots
from jsparse.export import Record, rebuild
from jsparse.export._shrinking.pieces import pieces_of
from jsparse.export._shrinking.tracing import trace
from tests.support import zoo
from tests.support.zoo_cases import ALL, CASES, outputs, prepared, shapes, vectors

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers


@pytest.mark.parametrize("name", ["mlp", "mobile net", "lstm"])
def test_it_trains_as_before(name: str) -> None:
    """The gradient is that of the whole model, cut; and a step of training runs."""
    case = CASES[name]
    model = prepared(case.make, case.dead)
    small, record = js.shrink(model, case.inputs(0, 2))
    x = case.inputs(1, 4)
    loss = lambda model, x: jnp.sum(jnp.sin(model(x)))
    gradients = []
    for net in (model, small):
        net.eval()
        state = nnx.jit(nnx.grad(loss))(net, x)
        leaves = jax.tree_util.tree_leaves_with_path(state)
        gradients.append({path_of(keys): np.asarray(leaf) for keys, leaf in leaves})
    for path, expected in gradients[0].items():
        for axis, kept in record.cuts[path].keep.items() if path in record.cuts else ():
            expected = expected.take(kept, axis)
        np.testing.assert_allclose(gradients[1][path], expected, rtol=1e-4, atol=1e-5)

    small.train()
    optimizer = js.Optimizer(small, optax.sgd(0.1))
    before = shapes(small)
    weight = np.asarray(small.head.kernel[...] if hasattr(small, "head") else small.c.kernel[...])
    optimizer.update(small, nnx.jit(nnx.grad(loss))(small, x))
    after = np.asarray(small.head.kernel[...] if hasattr(small, "head") else small.c.kernel[...])
    assert shapes(small) == before
    assert np.isfinite(after).all() and (after != weight).any()


def alive(kernels: list[np.ndarray]) -> list[int]:
    """How many units of each hidden layer lie on a path of weights from an input to an output."""
    reached, wanted = [np.ones(kernels[0].shape[0], bool)], [np.ones(kernels[-1].shape[1], bool)]
    for kernel in kernels:
        reached.append((kernel[reached[-1]] != 0).any(axis=0))
    for kernel in reversed(kernels):
        wanted.insert(0, (kernel[:, wanted[0]] != 0).any(axis=1))
    return [int((r & w).sum()) for r, w in zip(reached, wanted, strict=True)][1:-1]


@pytest.mark.slow
@hypothesis.given(
    widths=st.lists(st.integers(1, 7), min_size=3, max_size=5),
    density=st.sampled_from([0.15, 0.3, 0.6]),
    seed=st.integers(0, 99),
)
@hypothesis.settings(max_examples=8)
def test_random_nets_keep_the_units_on_a_path(widths: list[int], density: float, seed: int) -> None:
    """Without biases a unit matters if and only if an input reaches it and it reaches an output."""
    random = np.random.default_rng(seed)
    shape = list(itertools.pairwise(widths))
    kernels = [random.normal(size=s) * (random.random(s) < density) for s in shape]
    layers = [nnx.Linear(i, o, use_bias=False, rngs=nnx.Rngs(0)) for i, o in shape]
    for layer, kernel in zip(layers, kernels, strict=True):
        layer.kernel[...] = jnp.asarray(kernel, jnp.float32)
    acts = [jnp.tanh, nnx.relu, jnp.sin]
    parts = [part for pair in zip(layers, acts * 2, strict=False) for part in pair][:-1]
    x = vectors(seed, 3, widths[0])
    model = nnx.Sequential(*parts)
    small, _ = js.shrink(model, x)
    found = [layer.out_features for layer in small.layers[::2]][:-1]
    expected = alive(kernels)
    if all(expected):
        assert found == expected
        assert not js.shrink(small, x)[1].cuts
    assert all(n >= max(1, e) for n, e in zip(found, expected, strict=True))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


class Wild(nnx.Module):
    """Random joints between layers: sums, concatenations, reshapes, norms."""

    def __init__(self, joints: list[str], rngs: nnx.Rngs):
        self.layers, self.norms, self.joints = zoo.modules([]), zoo.modules([]), ()
        width = 6
        for joint in joints:
            self.joints += (joint if joint != "sum" or width == 6 else "plain",)
            self.layers.append(nnx.Linear(width, 6, rngs=rngs))
            self.norms.append(nnx.BatchNorm(6, rngs=rngs))
            width = {"concatenate": width + 6, "pairs": 3}.get(joint, 6)
        self.head = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for joint, layer, norm in zip(self.joints, self.layers, self.norms, strict=True):
            y = nnx.relu(norm(layer(x)))
            match joint:
                case "concatenate":
                    x = jnp.concatenate([x, y], axis=-1)
                case "sum":
                    x = x + y
                case "pairs":
                    x = y.reshape(*y.shape[:-1], -1, 2).max(axis=-1)
                case "gate":
                    x = y * jax.nn.sigmoid(y[..., ::-1])
                case _:
                    x = y
        return self.head(x)


@pytest.mark.slow
@hypothesis.given(
    joints=st.lists(
        st.sampled_from(["plain", "concatenate", "sum", "pairs", "gate"]), min_size=2, max_size=4
    ),
    seed=st.integers(0, 99),
)
@hypothesis.settings(max_examples=6)
def test_random_joints(joints: list[str], seed: int) -> None:
    random = np.random.default_rng(seed)
    model = prepared(lambda rngs: Wild(joints, rngs), {})
    for slot in slots(model):
        if slot.path.endswith("kernel"):
            rows, columns = (random.random(n) < 0.7 for n in slot.value.shape)
            zeros = rows[:, None] & columns & (random.random(slot.value.shape) < 0.7)
            slot.value[...] = slot.value[...] * jnp.asarray(zeros, jnp.float32)
        elif slot.path.endswith("bias"):
            slot.value[...] = jnp.asarray(random.normal(size=slot.value.shape), jnp.float32)
    small, _ = js.shrink(model, vectors(0, 2))
    x = vectors(1, 3)
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), rtol=1e-3, atol=1e-4)
    if all(n > 1 for shape in shapes(small).values() for n in shape):  # no layer was all dead
        assert not js.shrink(small, x)[1].cuts


def test_dead_layers_keep_a_unit() -> None:
    model = prepared(zoo.MLP, {"b/kernel": [(ALL,)]})
    small, _ = js.shrink(model, vectors(0, 2))
    assert (small.a.out_features, small.b.out_features) == (1, 1)
    np.testing.assert_allclose(outputs(small, vectors(1, 2)), outputs(model, vectors(1, 2)), 1e-5)


def test_rules_are_folded_first() -> None:
    rule = js.Top(density=0.5, unit=js.Channel())
    model = js.sparsify(prepared(zoo.MLP, {}), ("[ab]/kernel", rule))
    small, record = js.shrink(model, vectors(0, 2))
    assert small.a.out_features < 8
    assert isinstance(small.a.kernel, nnx.Param)
    x = vectors(1, 2)
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), rtol=1e-4, atol=1e-6)
    assert shapes(rebuild(model, record)) == shapes(small)


def test_half_precision_and_integer_inputs_keep_their_types() -> None:
    model = nnx.Linear(6, 8, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    head = nnx.Linear(8, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(1))
    model.kernel[...] = model.kernel[...].at[:, 2].set(0.0)
    model.bias[...] = model.bias[...] + 0.5
    small, _ = js.shrink(nnx.Sequential(model, nnx.relu, head), vectors(0, 2))
    assert small.layers[0].kernel.shape == (6, 7)
    assert small.layers[0].kernel.dtype == jnp.bfloat16
    assert small.layers[2].bias.dtype == jnp.float32


def test_half_precision_finds_the_groups_of_a_convolution() -> None:
    model = nnx.Conv(6, 6, (1, 1), feature_group_count=6, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    ends = [nnx.Conv(3, 6, (1, 1), rngs=nnx.Rngs(1)), nnx.Conv(6, 2, (1, 1), rngs=nnx.Rngs(2))]
    ends[1].kernel[...] = ends[1].kernel[...].at[:, :, [1, 3]].set(0.0)
    small, record = js.shrink(nnx.Sequential(ends[0], model, ends[1]), jnp.ones((1, 2, 2, 3)))
    assert small.layers[1].feature_group_count == small.layers[0].out_features == 4
    assert not record.stayed


def test_the_record_says_what_stays_and_why() -> None:
    case = CASES["sizes in the code"]
    _, record = js.shrink(prepared(case.make, case.dead), case.inputs(0, 2))
    assert {"b/kernel", "c/kernel"} <= set(record.stayed)
    assert "e/kernel" not in record.stayed
    assert all(record.stayed.values())


def test_what_the_call_does_not_use_stays() -> None:
    class Spare(zoo.MLP):
        def __init__(self, rngs: nnx.Rngs):
            super().__init__(rngs)
            self.spare = nnx.Linear(5, 5, rngs=rngs)
            self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))

    model = prepared(Spare, {"spare/kernel": [(ALL,)], "c/kernel": [(2,)]})
    _, record = js.shrink(model, vectors(0, 2))
    assert set(record.cuts) == {"b/kernel", "b/bias", "c/kernel"}


def test_what_is_spread_over_devices_stays_so() -> None:
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.P("x"))
    model = prepared(zoo.MLP, {"c/kernel": [(2,)], "b/kernel": [([4, 5],)]})
    for layer in (model.b, model.c):
        layer.kernel[...] = jax.device_put(layer.kernel[...], jax.NamedSharding(mesh, jax.P()))
    model.b.kernel[...] = jax.device_put(model.b.kernel[...], spread)
    small, _ = js.shrink(model, vectors(0, 2))
    assert small.b.kernel.shape == (6, 6)
    assert small.b.kernel[...].sharding == spread
    np.testing.assert_allclose(outputs(small, vectors(1, 2)), outputs(model, vectors(1, 2)), 1e-5)


def test_errors() -> None:
    model = prepared(zoo.MLP, {"c/kernel": [(2,)]})
    _, record = js.shrink(model, vectors(0, 2))
    data = record.to_dict()
    with pytest.raises(ValueError, match="not a record of shrink"):
        Record.from_dict({"format": "other"})
    with pytest.raises(ValueError, match="version 7"):
        Record.from_dict({**data, "version": 7})
    with pytest.raises(ValueError, match="damaged"):
        Record.from_dict({**data, "cuts": {"c/kernel": {"shape": [8, 3]}}})
    with pytest.raises(ValueError, match=r"the attributes of 'c': it holds 3, expected an object"):
        Record.from_dict({**data, "attributes": {"b": {}, "c": 3}})
    with pytest.raises(ValueError, match="'b/bias', which this model lacks"):
        rebuild(zoo.Tied(nnx.Rngs(0)), Record.from_dict({**data, "attributes": {}}))
    with pytest.raises(ValueError, match=r"\(7,\), the model has \(6,\)"):
        rebuild(rebuild(model, record), record)
    bad = {**data["cuts"], "b/bias": {"shape": [7], "keep": {"0": [9]}}}
    with pytest.raises(ValueError, match="positions that"):
        rebuild(model, Record.from_dict({**data, "cuts": bad}))
    with pytest.raises(TypeError, match=r"nnx\.Module"):
        js.shrink({"kernel": jnp.ones((2, 2))}, vectors(0, 2))


def test_a_record_from_any_mapping() -> None:
    _, record = js.shrink(prepared(zoo.MLP, {"c/kernel": [(2,)]}), vectors(0, 2))
    data = record.to_dict()
    frozen = lambda value: (
        MappingProxyType({name: frozen(one) for name, one in value.items()})
        if isinstance(value, dict)
        else tuple(map(frozen, value))
        if isinstance(value, list)
        else value
    )
    assert Record.from_dict(frozen(data)) == Record.from_dict(data)


@pytest.mark.parametrize(("depth", "in_pieces"), [(2, False), (24, True)])
def test_equal_layers_are_run_by_pieces_that_are_compiled_once(depth: int, in_pieces: bool) -> None:
    rngs, x = nnx.Rngs(0), jnp.ones((2, 4))
    layers = [(nnx.Linear(4, 4, rngs=rngs), nnx.tanh) for _ in range(depth)]
    model = nnx.Sequential(*itertools.chain(*layers), nnx.Linear(4, 3, rngs=rngs))
    graph = trace(model, (x,))
    pieces = pieces_of(graph.ops, graph.outputs)
    assert bool(pieces) == in_pieces and len({piece.kind for piece in pieces}) <= 3
    np.testing.assert_allclose(graph.run({})[0], model(x), rtol=1e-5)
    model.layers[0].bias[...] = jnp.ones(4)
    np.testing.assert_allclose(graph.run({"layers/0/bias": jnp.ones(4)})[0], model(x), rtol=1e-5)
