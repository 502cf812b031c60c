"""Costs from the traced computation: against derivatives, the compiler's count and by hand."""

import json
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.report import accuracy_density, costs, hardness_density
from tests.support.cases import Shared, Stacked

NO_BIAS = {"use_bias": False}
LINEAR = {
    "linear": (partial(nnx.Linear, 6, 4, **NO_BIAS), (3, 6)),
    "general": (partial(nnx.LinearGeneral, (2, 3), (4, 2), axis=(-2, -1), **NO_BIAS), (3, 2, 3)),
    "einsum": (partial(nnx.Einsum, "bi,hio->bho", (2, 6, 3)), (3, 6)),
    "conv": (partial(nnx.Conv, 2, 6, (3, 5), **NO_BIAS), (2, 7, 8, 2)),
    "strided": (partial(nnx.Conv, 2, 6, (3, 3), strides=(2, 1), **NO_BIAS), (2, 7, 8, 2)),
    "valid": (partial(nnx.Conv, 2, 6, (3, 3), padding="VALID", **NO_BIAS), (2, 7, 8, 2)),
    "grouped": (
        partial(nnx.Conv, 4, 6, (3, 3), feature_group_count=2, **NO_BIAS),
        (2, 5, 6, 4),
    ),
    "depthwise": (
        partial(nnx.Conv, 4, 4, (3, 3), feature_group_count=4, strides=2, **NO_BIAS),
        (2, 5, 6, 4),
    ),
    "dilated": (partial(nnx.Conv, 2, 3, (3,), kernel_dilation=2, **NO_BIAS), (2, 9, 2)),
    "transposed": (partial(nnx.ConvTranspose, 2, 3, (3, 3), strides=2, **NO_BIAS), (1, 4, 5, 2)),
    "transposed kernel": (
        partial(nnx.ConvTranspose, 2, 3, (3,), strides=2, transpose_kernel=True, **NO_BIAS),
        (1, 4, 2),
    ),
}


def flops_of_the_compiler(model: nnx.Module, x: jax.Array) -> float:
    graphdef, state = nnx.split(model)
    lowered = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x)).lower(state, x)
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_costs_what_its_derivative_and_the_compiler_say(name: str) -> None:
    """With inputs of one, the derivative of the sum of the outputs counts the uses of a weight."""
    make, shape = LINEAR[name]
    x = jnp.ones(shape)
    dense = make(rngs=nnx.Rngs(0))
    slope = lambda k: nnx.merge(graphdef, jax.tree.map(lambda _: k, state))(x).sum()
    graphdef, state = nnx.split(dense)
    uses = np.asarray(jax.grad(slope)(dense.kernel[...]))
    mask = (np.random.default_rng(0).random(uses.shape) < 0.4).astype(np.float32)
    model = js.sparsify(dense, ("kernel", js.Held()))
    (row,) = costs(js.hold(model, {"kernel": mask}), x).rows.values()
    assert row.dense_flops == pytest.approx(2 * uses.sum())
    assert row.flops == pytest.approx(2 * (mask * uses).sum())
    found = costs(dense, x)
    assert found.flops == row.dense_flops and found.rows == {}
    assert flops_of_the_compiler(dense, x) == pytest.approx(row.dense_flops)


class Experts(nnx.Module):
    def __init__(self) -> None:
        self.kernel = nnx.Param(jnp.ones((3, 6, 8)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.ragged_dot(x, self.kernel[...], jnp.array([1, 0, 4]))


def test_a_row_costs_the_matrix_of_its_expert_alone() -> None:
    assert costs(Experts(), jnp.ones((5, 6))).flops == 2 * 5 * 6 * 8


def test_attention_by_hand() -> None:
    batch, length, width, heads = 2, 5, 8, 4
    layer = nnx.MultiHeadAttention(heads, width, decode=False, rngs=nnx.Rngs(0))
    model = js.sparsify(layer, (".*/kernel", js.Top(density=0.25)))
    found = costs(model, jnp.ones((batch, length, width)))
    assert len(found.rows) == 4
    for row in found.rows.values():
        assert row.dense_flops == 2 * batch * length * width * width
        assert row.flops == row.dense_flops / 4
    assert found.other_flops == 2 * 2 * batch * length * length * width


class Tail(nnx.Module):
    """A weight without a rule, and one in a compiled function."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(6, 4, rngs=rngs)
        self.second = nnx.Linear(4, 2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, scale: float = 1.0) -> jax.Array:
        run = jax.jit(jax.checkpoint(lambda x, k: x @ (k.T * scale).T))
        return self.second(self.drop(run(x, self.first.kernel[...])))


def test_parts_without_a_rule_and_functions_inside() -> None:
    model = js.sparsify(Tail(nnx.Rngs(0)), ("first/kernel", js.Top(density=0.5)))
    for x in (jnp.ones((3, 6)), jax.ShapeDtypeStruct((3, 6), jnp.float32)):
        found = costs(model, x, scale=2.0)
        assert found.rows["first/kernel"].flops == 2 * 3 * 12
        assert found.other_flops == 2 * 3 * 4 * 2
        assert found.flops == 72 + 48 and found.dense_flops == 144 + 48
    assert found.other_bytes == 4 * (4 + 8 + 2)
    assert found.rows["first/kernel"].bytes == 12 * 4 + 3


def test_scanned_layers_count_each_slice_once() -> None:
    model = js.sparsify(Stacked(nnx.Rngs(0)), (".*/kernel", js.Top(density=0.25)))
    row = costs(model, jnp.ones((2, 4))).rows["layers/kernel"]
    assert row.dense_flops == 3 * 2 * 2 * 16 and row.flops == row.dense_flops / 4


class Recurrent(nnx.Module):
    """One cell over a sequence."""

    def __init__(self, rngs: nnx.Rngs):
        self.cell = nnx.RNN(nnx.GRUCell(4, 6, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.cell(x)


def test_a_cell_counts_each_step() -> None:
    model = js.sparsify(Recurrent(nnx.Rngs(0)), (".*/kernel", js.Top(density=0.5)))
    found = costs(model, jnp.ones((2, 7, 4)))
    dense = {path.split("/")[-2]: row.dense_flops for path, row in found.rows.items()}
    assert dense == {"dense_i": 7 * 2 * 2 * 4 * 18, "dense_h": 7 * 2 * 2 * 6 * 18}


def test_a_shared_weight_counts_each_reading_and_is_stored_once() -> None:
    model = js.sparsify(Shared(nnx.Rngs(0)), ("first/kernel", js.Top(density=0.5)))
    found = costs(model, jnp.ones((2, 4)))
    assert list(found.rows) == ["first/kernel"]
    assert found.rows["first/kernel"].flops == 2 * (2 * 2 * 16) / 2
    assert found.dense_bytes == 4 * (16 + 4 + 4)


def test_branches_and_embeddings() -> None:
    class Branches(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.table = nnx.Embed(10, 4, rngs=rngs)
            self.kernel = nnx.Param(jnp.ones((4, 4)))

        def __call__(self, x: jax.Array) -> jax.Array:
            once, kernel = self.table(x), self.kernel[...]
            twice = lambda y: (y @ kernel) @ kernel
            y = jax.lax.cond(x.sum() > 3, twice, lambda y: y @ kernel, once)
            return self.table.attend(y)

    model = js.sparsify(Branches(nnx.Rngs(0)), (".*", js.Top(density=0.5)))
    rows = costs(model, jnp.arange(3)).rows
    assert rows["kernel"].dense_flops == 2 * 2 * 3 * 16  # the dearer branch
    assert rows["table/embedding"].dense_flops == 2 * 3 * 4 * 10  # looking up costs no product


def test_costs_at_other_densities() -> None:
    make: Callable = lambda rngs: nnx.Sequential(
        nnx.Linear(20, 30, rngs=rngs), nnx.relu, nnx.Linear(30, 10, rngs=rngs)
    )
    model = js.sparsify(make(nnx.Rngs(0)), (".*/kernel", js.Held()))
    full = costs(model, jnp.ones((1, 20)))
    assert full.flops == full.dense_flops
    half = full.at({"layers/0/kernel": 0.5})
    held = js.prune.keep_highest(
        model,
        {path: jnp.abs(part.weight[...]) for path, part in js.prune.held_parts(model).items()},
        0.5,
        js.prune.by_layer(),
    )
    both = full.at({path: 0.5 for path in full.rows})
    assert both == costs(held, jnp.ones((1, 20)))
    assert half.flops == full.flops - 600 and half.rows["layers/2/kernel"].kept == 300
    with pytest.raises(ValueError, match="'x' is not a sparse weight; available: layers/0/kernel"):
        full.at({"x": 0.5})
    with pytest.raises(ValueError, match="density"):
        full.at({"layers/0/kernel": 0.0})


def test_the_table_lines_up_and_the_dictionary_is_plain() -> None:
    model = js.sparsify(nnx.Linear(300, 200, rngs=nnx.Rngs(0)), ("kernel", js.Top(density=0.1)))
    found = costs(model, jnp.ones((2, 300)))
    assert len({len(line) for line in str(found).splitlines()}) == 1
    data = json.loads(json.dumps(found.to_dict()))
    assert data["layers"]["kernel"]["flops"] == 24_000 and data["total"]["dense_flops"] == 240_000
    assert found.rows["kernel"].dense_bytes == 240_000


def test_accuracy_for_parameters() -> None:
    assert accuracy_density(0.5, 10**6) == 50
    # each halving of the error counts the same
    first, second = (hardness_density(a, 1000, 0.1) for a in (0.55, 0.775))
    assert second == pytest.approx(2 * first)
    assert hardness_density(0.1, 1000, 0.1) == 0 and hardness_density(1.0, 1, 0.1) == math.inf
    for call, words in [
        (lambda: accuracy_density(98.0, 10), "divide percent by 100"),
        (lambda: accuracy_density(0.9, 0), "parameters must be .*; got 0"),
        (lambda: hardness_density(0.9, 10, 1.0), "chance must be a number in"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
