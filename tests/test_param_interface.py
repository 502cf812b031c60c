"""A Sparse answers everything that an nnx.Param with the masked weight answers."""

import copy
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of flax: `.value`, `.raw_value`
    pytest.mark.standard_dtypes,
]
ONES = jnp.ones((4, 3))
RULES = {
    "top": js.Top(density=0.5),
    "held": js.Held(),
    "threshold": js.Threshold(alpha=1e-3),
    "gibbs": js.Gibbs(density=0.5, beta=1e4),
}


def pair(rule: str = "top", shape: tuple = (4, 3), **metadata: Any) -> tuple[nnx.Param, js.Sparse]:
    """A Sparse that masks about half of its weights, and a Param with the masked weight."""
    weight = nnx.Param(jax.random.normal(jax.random.key(0), shape), **metadata)
    sparse = js.Sparse(weight, RULES[rule], key=jax.random.key(1))
    if rule == "held":
        sparse.mask[...] = (jnp.arange(12).reshape(4, 3) % 2).astype(jnp.float32)
    if rule == "threshold":
        sparse.threshold[...] = jnp.full(3, 0.7)
    read = sparse.read()
    assert 0 < (read == 0).sum() < read.size or read.size == 1
    return weight.replace(read), sparse


READS: dict[str, Callable[[Any], Any]] = {
    "[...]": lambda p: p[...],
    "[:]": lambda p: p[:],
    "[1]": lambda p: p[1],
    "[1:, 0]": lambda p: p[1:, 0],
    "[mask]": lambda p: p[np.array([True, False, True, False])],
    "value": lambda p: p.value,
    "get_value": lambda p: p.get_value() if hasattr(p, "get_value") else p.value,
    "shape": lambda p: p.shape,
    "dtype": lambda p: p.dtype,
    "ndim": lambda p: p.ndim,
    "size": lambda p: p.size,
    "nbytes": lambda p: p.nbytes,
    "itemsize": lambda p: p.itemsize,
    "T": lambda p: p.T,
    "mT": lambda p: p.mT,
    "real": lambda p: p.real,
    "at": lambda p: p.at[0].add(1.0),
    "astype": lambda p: p.astype(jnp.bfloat16),
    "reshape": lambda p: p.reshape(-1),
    "ravel": lambda p: p.ravel(),
    "sum": lambda p: p.sum(0),
    "mean": lambda p: p.mean(),
    "max": lambda p: p.max(),
    "argmax": lambda p: p.argmax(),
    "item": lambda p: p[0, 0].item(),
    "tolist": lambda p: p.tolist(),
    "block_until_ready": lambda p: p.block_until_ready(),
    "sharding": lambda p: str(p.sharding),
    "devices": lambda p: p.devices(),
    "weak_type": lambda p: p.weak_type,
    "len": len,
    "iter": lambda p: list(p),
    "unpack": lambda p: [*p][1],
    "in": lambda p: 0.0 in p,
    "neg": operator.neg,
    "pos": operator.pos,
    "abs": abs,
    "round": lambda p: round(p, 1),
    "invert": operator.invert,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
    "float": float,
    "int": int,
    "complex": complex,
    "index": operator.index,
    "== 0": lambda p: p == 0,
    "== array": lambda p: p == ONES,
    "call": lambda p: p(),
    "del [0]": lambda p: operator.delitem(p, 0),
    "sum of ==": lambda p: (p == 0).sum(),
    "np.asarray": np.asarray,
    "np.array": np.array,
    "np.sum": lambda p: np.sum(np.asarray(p)),
    "jnp.asarray": jnp.asarray,
    "jnp.array": jnp.array,
    "jnp.sum": jnp.sum,
    "jnp.abs": jnp.abs,
    "jnp.where": lambda p: jnp.where(ONES > 0, p, 0.0),
    "jnp.dot": lambda p: jnp.dot(jnp.ones((2, 4)), p),
    "jnp.matmul": lambda p: jnp.matmul(jnp.ones((2, 4)), p),
    "jnp.einsum": lambda p: jnp.einsum("bi,io->bo", jnp.ones((2, 4)), p),
    "jnp.reshape": lambda p: jnp.reshape(p, -1),
    "jnp.transpose": jnp.transpose,
    "jnp.concatenate": lambda p: jnp.concatenate([p[...], p[...]]),
    "jnp.zeros_like": jnp.zeros_like,
    "jnp.shape": jnp.shape,
    "jnp.count_nonzero": jnp.count_nonzero,
    "jnp.linalg.norm": jnp.linalg.norm,
    "jax.lax.dot": lambda p: jax.lax.dot(jnp.ones((2, 4)), p[...]),
    "jax.nn.relu": lambda p: jax.nn.relu(p[...]),
    "under jit": lambda p: jax.jit(lambda: p @ jnp.ones(3))(),
    "type": lambda p: p.type,
    "var_type": lambda p: getattr(p, "var_type", None),
    "get_metadata": lambda p: p.get_metadata(),
    "metadata": lambda p: p.note,
    "no such attribute": lambda p: p.nothing,
    "raw_value": lambda p: p.raw_value.shape,
    "to_state": lambda p: p.to_state(),
    "replace": lambda p: p.replace(note="other").note,
    "replace value": lambda p: p.replace(p[...] * 2.0),
    "copy": lambda p: p.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda p: pickle.loads(pickle.dumps(p[...])),
    "add_axis": lambda p: p.add_axis(0, "x"),
    "remove_axis": lambda p: p.remove_axis(0, "x"),
}
NEW_IN_0_12: dict[str, Callable[[Any], Any]] = {
    "get_value index": lambda p: p.get_value(index=0),
    "get_raw_value": lambda p: p.get_raw_value().shape,
    "get_metadata name": lambda p: p.get_metadata("note"),
    "get_metadata default": lambda p: p.get_metadata("other", 3),
    "has_metadata": lambda p: (p.has_metadata("note"), p.has_metadata("other")),
    "hijax": lambda p: p.hijax,
    "ref": lambda p: p.ref,
    "required_metadata": lambda p: p.required_metadata,
    "sharding_names": lambda p: p.sharding_names,
    "copy value": lambda p: p.copy(p[...] * 2.0),
}
READS |= NEW_IN_0_12 if hasattr(nnx.Param, "set_value") else {}
BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv]
BINARY += [operator.mod, operator.pow, operator.and_, operator.or_, operator.xor, operator.eq]
BINARY += [operator.lshift, operator.rshift, operator.lt, operator.le, operator.gt, operator.ge]
OTHERS = {"a number": 2.0, "an array": 2 * ONES, "numpy": np.full((4, 3), 2, np.float32)}
READS |= {
    f"{do.__name__} {kind}": lambda p, do=do, other=other: do(p, other)
    for do in BINARY
    for kind, other in OTHERS.items()
}
READS |= {f"reflected {do.__name__}": lambda p, do=do: do(2 * ONES, p) for do in BINARY}
READS |= {
    "matmul": lambda p: p @ jnp.ones((3, 2)),
    "reflected matmul": lambda p: jnp.ones((2, 4)) @ p,
    "with itself": lambda p: p * p + p.T.T - p,
    "with a Param": lambda p: p * nnx.Param(2 * ONES),
    "a Param with it": lambda p: nnx.Param(2 * ONES) * p,
}


def answer(use: Callable, of: Any) -> Any:
    """What a use gives: values, or the class of the error."""
    try:
        got = use(of)
    except Exception as error:
        return type(error)
    return got[...] if isinstance(got, nnx.Variable | js.Sparse) else got


def assert_same(got: Any, want: Any) -> None:
    if isinstance(want, jax.Array | np.ndarray | list):
        assert type(got) is type(want)
        np.testing.assert_array_equal(got, want)
        assert getattr(got, "dtype", None) == getattr(want, "dtype", None)
    else:
        assert got == want


@pytest.mark.parametrize("use", READS)
def test_reads_as_a_param(use: str) -> None:
    param, sparse = pair(note="mine")
    got, want = answer(READS[use], sparse), answer(READS[use], param)
    if isinstance(got, jax.Array) and isinstance(want, type | bool):  # no `<` in a Param
        want = answer(READS[use], param[...])
    assert_same(got, want)


@pytest.mark.parametrize("use", ["float", "int", "complex", "index", "round", "item"])
def test_a_single_number_converts_as_in_a_param(use: str) -> None:
    param, sparse = pair(shape=(1,))
    assert_same(answer(READS[use], sparse), answer(READS[use], param))


@pytest.mark.parametrize("name", [n for n in dir(nnx.Param) if not n.startswith("_")])
def test_every_public_name_is_there(name: str) -> None:
    param, sparse = pair()
    if hasattr(param, name):  # hooks are there only where set
        assert hasattr(sparse, name)
        assert callable(getattr(sparse, name)) == callable(getattr(param, name))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "make", [lambda p: p.replace(2 * ONES), lambda p: p.replace(value=2 * ONES), lambda p: p.copy()]
)
def test_copies_stay_sparse_and_share_nothing(rule: str, make: Callable) -> None:
    _, sparse = pair(rule, note="mine")
    before = jax.tree.map(jnp.copy, nnx.state(sparse))
    new = make(sparse)
    assert isinstance(new, js.Sparse) and new.rule == sparse.rule and new.note == "mine"
    new.weight[...] = 0 * ONES
    jax.tree.map(np.testing.assert_array_equal, nnx.state(sparse), before)


@pytest.mark.parametrize("rule", RULES)
def test_copied_and_pickled_models_give_the_same(rule: str) -> None:
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    model.kernel = nnx.data(pair(rule)[1])
    stored = pickle.loads(pickle.dumps(model.kernel))
    np.testing.assert_array_equal(stored[...], model.kernel[...])
    for other in (copy.copy(model), copy.deepcopy(model)):
        np.testing.assert_array_equal(other(jnp.ones((2, 4))), model(jnp.ones((2, 4))))
    graphdef, params, rest = nnx.split(copy.deepcopy(model), nnx.Param, ...)
    np.testing.assert_array_equal(nnx.merge(graphdef, params, rest).kernel[...], model.kernel[...])


WRITES: dict[str, Callable[[Any], Any]] = {
    "value": lambda p: setattr(p, "value", ONES),
    "[...]": lambda p: operator.setitem(p, ..., ONES),
    "[0]": lambda p: operator.setitem(p, 0, 1.0),
    "copy_from": lambda p: p.copy_from(nnx.Param(ONES)),
    "update_from_state": lambda p: p.update_from_state(nnx.Param(ONES)),
    "raw_value": lambda p: setattr(p, "raw_value", ONES) if not NEW else p.set_raw_value(ONES),
}
NEW = hasattr(nnx.Param, "set_value")
if NEW:
    WRITES |= {
        "set_value": lambda p: p.set_value(ONES),
        "set_value index": lambda p: p.set_value(1.0, index=0),
    }


@pytest.mark.parametrize("use", WRITES)
def test_writes_reach_the_dense_weight(use: str) -> None:
    """And only that: the mask of a held rule stays."""
    param, sparse = pair("held")
    param = param.replace(sparse.weight[...])
    mask = sparse.mask[...]
    WRITES[use](param)
    WRITES[use](sparse)
    np.testing.assert_array_equal(sparse.weight[...], param[...])
    np.testing.assert_array_equal(sparse[...], param[...] * mask)
    np.testing.assert_array_equal(sparse.mask[...], mask)


@pytest.mark.parametrize("use", [use for use in WRITES if use not in ("[0]", "set_value index")])
def test_writing_another_shape_is_refused(use: str) -> None:
    _, sparse = pair()
    if "raw" not in use:
        with pytest.raises(ValueError, match=r"got shape|Incompatible .* for broadcasting"):
            WRITES[use](_Wrong(sparse))


class _Wrong:
    """Writes arrays of another shape."""

    def __init__(self, sparse: js.Sparse):
        object.__setattr__(self, "sparse", sparse)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.sparse, name)
        wrong = lambda v: nnx.Param(jnp.ones(5)) if isinstance(v, nnx.Param) else jnp.ones(5)
        return lambda value, **options: method(wrong(value), **options)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.sparse, name, jnp.ones(5))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.sparse[index] = jnp.ones(5)


@pytest.mark.parametrize("name", [n for n in dir(nnx.Param) if n in ("__iadd__", "__imul__")])
def test_in_place_operators_do_what_those_of_a_param_do(name: str) -> None:
    """A Sparse must not turn into an array: flax 0.11 writes the Param, later versions refuse."""
    _, sparse = pair("held")
    param = nnx.Param(sparse.weight[...])

    def use(p: Any) -> Any:
        return getattr(operator, name.strip("_"))(p, 2.0)

    assert_same(answer(use, sparse) if NEW else use(sparse).weight[...], answer(use, param))
    np.testing.assert_array_equal(sparse.weight[...], param[...])


def test_metadata_is_that_of_the_weight() -> None:
    param, sparse = pair(note="mine")
    if NEW:
        for p in (param, sparse):
            p.set_metadata(note="other", more=1)
            p.del_metadata("more")
    assert sparse.get_metadata() == param.get_metadata()
    assert sparse.weight.note == sparse.note


def test_a_reparameterized_weight_is_written_only_through_its_parameter() -> None:
    weight = nnx.Param(ONES)
    sparse = js.Sparse(weight, js.Powerpropagation(), key=jax.random.key(0))
    for use in ("value", "[...]", "[0]", "copy_from"):
        with pytest.raises(ValueError, match="holds a parameter in place of the weight"):
            WRITES[use](sparse)


def test_a_sparse_is_found_by_identity_and_compared_by_value() -> None:
    _, sparse = pair()
    assert {sparse: 1}[sparse] == 1
    np.testing.assert_array_equal(sparse == 0, sparse.read_mask() == 0)
    np.testing.assert_array_equal(sparse != 0, sparse.read_mask() == 1)
    with pytest.raises(ValueError, match="cannot copy from a Sparse under"):
        sparse.copy_from(pair("held")[1])
