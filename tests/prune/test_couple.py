"""Rules over coupled units: what dies, and that it dies everywhere."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._step import long_tailed
from tests.support.coupled import INNER, STREAM, Net, X, check_removed, coupled, groups, norms

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes


def trained(model: nnx.Module, optimizer: js.Optimizer, steps: int) -> None:
    @nnx.jit
    def run(model: nnx.Module, optimizer: js.Optimizer) -> None:
        loss = lambda model: ((model(X) - X[:, :3]) ** 2).mean() + js.cost(model)
        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(steps):
        run(model, optimizer)
    model.eval()


def test_the_highest_units_of_all_groups_stay_under_top() -> None:
    model = coupled(js.Top(density=0.5, unit=js.Group(), scope=js.WholeModel()))
    trained(model, js.Optimizer(model, optax.adam(1e-2)), 20)
    scores = np.concatenate([norms(model, STREAM), norms(model, INNER)])
    kept = scores >= np.sort(scores)[-10]
    assert 0 < kept[:8].sum() < 8
    check_removed(model, {STREAM: kept[:8], INNER: kept[8:]})


def test_units_die_under_learned_thresholds() -> None:
    model = coupled(js.Threshold(alpha=3e-3, unit=js.Group()))
    goal = js.TargetDensity(density=0.5, steps=150)
    trained(model, js.Optimizer(model, optax.adam(1e-2), controls=(goal,)), 150)
    alive = {}
    for makers, part in ((STREAM, model.a.kernel), (INNER, model.norm.scale)):
        alive[makers] = norms(model, makers) > np.asarray(part.units0.threshold[...])
    total = sum(int(kept.sum()) for kept in alive.values())
    assert 7 <= total <= 12  # of 20
    check_removed(model, alive)


def test_gates_are_on_what_reads_the_units() -> None:
    closing = {m.path for group in groups() for m in group.members if m.closes}
    assert closing == {"b/kernel", "c/kernel", "out/kernel"}
    model = coupled(js.Top(density=0.5, unit=js.Group()))
    grads = nnx.grad(lambda model: (model(X) ** 2).mean())(model)
    dead = np.asarray(model.c.kernel.read_mask()) == 0  # behind a ReLU, whose slope at 0 is 0
    assert dead.any() and np.abs(grads.out.kernel.weight[...]).min() > 0
    assert np.abs(grads.c.kernel.weight[...]).sum(1).min() > 0


def test_gradients_of_thresholds_and_of_a_weights_own_part() -> None:
    model: Any = nnx.Sequential(
        nnx.Linear(4, 6, rngs=nnx.Rngs(1)), nnx.relu, nnx.Linear(6, 3, rngs=nnx.Rngs(2))
    )
    rule = js.Threshold(alpha=0.0, unit=js.Group())
    model = js.couple(model, js.groups(model, X), ("layers/0/.*", rule))
    first, last = model.layers[0].kernel, model.layers[2].kernel
    last.units0.threshold[...] = jnp.linspace(0.1, 0.9, 6)
    loss = lambda model: (model(X) ** 2).mean()
    grads: Any = nnx.grad(loss)(model).layers
    w, v, t = (np.asarray(a[...]) for a in (first.weight, last.weight, last.units0.threshold))
    dense = nnx.grad(loss)(js.resolve(model)).layers
    n = np.sqrt(((w**2).sum(0) + (v**2).sum(1)) / 8)  # 4 + 3 entries and a bias of 0
    mask, slope = n > t, np.asarray(long_tailed(jnp.asarray(n - t)))
    assert 0 < mask.sum() < 6
    g = np.asarray(dense[2].kernel[...])
    own = (g * v).sum(1)
    state = nnx.to_flat_state(nnx.state(grads))
    (found,) = (leaf for path, leaf in state if path[-1] == "threshold")
    np.testing.assert_allclose(found[...], -slope * own, rtol=1e-4, atol=1e-6)
    want = g * mask[:, None] + (slope * own / (8 * n))[:, None] * v
    np.testing.assert_allclose(grads[2].kernel.weight[...], want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        grads[0].kernel.weight[...], dense[0].kernel[...], rtol=1e-4, atol=1e-6
    )


RULES = (
    js.HardConcrete(lam=0.1, unit=js.Group()),
    js.Gibbs(density=0.5, beta=1.0, unit=js.Group()),
    js.Movement(density=0.5, unit=js.Group()),
    js.SoftMovement(lam=1.0, unit=js.Group()),
    js.SoftThreshold(s_init=-0.5, unit=js.Group()),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_group_has_one_state_and_one_draw(rule: js.Rule) -> None:
    model = coupled(rule)
    units = model.a.kernel.units0
    assert units is model.c.bias.units0 is model.out.kernel.units0
    if isinstance(rule, js.HardConcrete):  # 5 + 13 + 12 + 3 entries
        np.testing.assert_allclose(units.price[...], 3.3, rtol=1e-6)
        assert float(js.cost(model)) == pytest.approx(
            sum(float(part.cost()) for part in (units, model.norm.scale.units0))
        )
    new = js.advance(model)
    if "draw" in units.state_names:
        assert float(new.a.kernel.units0.draw[1]) == 1
    gates = np.asarray(new.a.bias.read_mask())
    np.testing.assert_array_equal(new.a.kernel.read_mask(), np.broadcast_to(gates, (4, 8)))
    np.testing.assert_array_equal(new.out.kernel.read_mask(), gates[:, None] * np.ones((8, 3)))
    assert not np.asarray(new.out.kernel[...])[gates == 0].any()
    graph, state = nnx.split(new)
    again = nnx.merge(graph, state)
    for one in (new, again):
        one.eval()
    np.testing.assert_array_equal(again(X), new(X))
    np.testing.assert_allclose(js.fold(new)(X), new(X), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_seeds_train_side_by_side() -> None:
    rule = js.Top(density=0.5, unit=js.Group())
    make = nnx.vmap(lambda seed: js.couple(Net(nnx.Rngs(params=seed)), groups(), (".*", rule)))
    models = make(jax.random.split(jax.random.key(0), 2))
    outputs = nnx.vmap(lambda model: model(X))(models)
    one = js.couple(
        Net(nnx.Rngs(params=jax.random.split(jax.random.key(0), 2)[1])), groups(), (".*", rule)
    )
    np.testing.assert_allclose(outputs[1], one(X), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_coupled_is_said() -> None:
    model, rule = Net(nnx.Rngs(0)), js.Top(density=0.5, unit=js.Group())
    couple = functools.partial(js.couple, model, groups())
    with pytest.raises(ValueError, match=r"call jsparse\.couple\(model, jsparse\.groups\(model"):
        js.sparsify(model, (".*/kernel", rule))
    with pytest.raises(ValueError, match="'a/kernel' matches no group that can shrink"):
        couple(("a/kernel", rule))
    with pytest.raises(ValueError, match=r"Top has the unit Filter\(\); give it unit=Group\(\)"):
        couple((".*", js.Top(density=0.5, unit=js.Filter())))
    with pytest.raises(ValueError, match="SRSTE decides about single weights"):
        couple((".*", js.SRSTE(density=0.5, unit=js.Group())))
    with pytest.raises(TypeError, match=r"groups must be what jsparse\.groups gives"):
        js.couple(model, model, (".*", rule))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a/kernel is under coupled Top already"):
        js.couple(couple((".*", rule)), groups(), (".*", rule))
    with pytest.raises(ValueError, match="has the weight a/kernel, which is not in the model"):
        js.couple(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), groups(), (".*", rule))
    with pytest.raises(ValueError, match="a/kernel:1 have 33 entries each, and the model"):
        js.sparsify(couple((".*", rule)), ("c/kernel", js.Keep()))
    model = couple((".*", js.Held()))
    with pytest.raises(ValueError, match="a/bias' is coupled Held in the target and coupled Held"):
        js.average(model, model, 0.5)
    exchange = js.SET(unit=js.Group(), every=2, last=9)
    tx = js.revise(optax.sgd(0.1), (".*", exchange), roles=js.roles(model))
    optimizer = js.Optimizer(model, tx, wrt=(nnx.Param, js.Mask))
    with pytest.raises(ValueError, match=r"SET closes units of several layers, .* jsparse\.shrink"):
        js.pack_training(model, optimizer)


class Block(nnx.Module):
    """Of a transformer."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 8, 16, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Text(nnx.Module):
    """A transformer of one block."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed, self.block = nnx.Embed(11, 8, rngs=rngs), Block(rngs)
        self.norm, self.head = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 11, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(self.norm(self.block(self.embed(x))))


class Scored(nnx.Module):
    """Attention of a head without its projections of values and outputs."""

    def __init__(self, rngs: nnx.Rngs):
        self.query, self.key = (nnx.Linear(4, 6, use_bias=False, rngs=rngs) for _ in range(2))
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        logits = jnp.einsum("qi,ki->qk", self.query(x), self.key(x))
        return self.head(nnx.softmax(logits) @ x)


def test_units_that_logits_sum_over_close_where_they_are_made_whatever_the_inputs() -> None:
    model: Any = Scored(nnx.Rngs(0))
    rule = js.Top(density=0.5, unit=js.Group())
    found = js.groups(model, X[:1])  # the softmax over one token is 1, whatever the logits are
    model = js.couple(model, found, ("query/kernel:1", rule))
    np.testing.assert_allclose(js.fold(model)(X), model(X), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_heads_their_width_and_the_stream_of_a_transformer() -> None:
    tokens = jnp.arange(14).reshape(2, 7) % 11
    model: Any = Text(nnx.Rngs(0))
    rule = js.Top(density=0.5, unit=js.Group())
    model = js.couple(model, js.groups(model, tokens), (".*", rule))
    closing = lambda part: [span.closes for span in part.rule.spans]
    query, out = model.block.attention.query.kernel, model.block.attention.out.kernel
    assert (closing(query), closing(out)) == ([False, False, True], [True, True, False])
    folded = js.fold(model)
    np.testing.assert_allclose(folded(tokens), model(tokens), rtol=1e-5, atol=1e-6)
    small, record = js.shrink(model, tokens)
    assert small.block.attention.query.kernel.shape == (8, 2, 4)
    why = record.stayed["block/attention/query/kernel"]
    assert "one width, the attribute head_dim of block/attention; jsparse.prune.units" in why
    assert small.block.up.kernel.shape == (8, 6)
    np.testing.assert_allclose(small(tokens), folded(tokens), rtol=1e-4, atol=1e-5)
    # also the stream, of a mean, and the width of heads, whose root attention divides by
    narrow, _ = js.prune.units(model, tokens, density=0.5)
    assert narrow.block.attention.query.kernel.shape == (4, 2, 2)
    alive = np.asarray(model.embed.embedding.read_mask())[0] > 0
    np.testing.assert_array_equal(
        narrow.embed.embedding[...], np.asarray(folded.embed.embedding[...])[:, alive]
    )


@pytest.mark.slow
def test_hidden_units_of_a_cell() -> None:
    x = jax.random.normal(jax.random.key(1), (2, 6, 5))

    class Reader(nnx.Module):
        """An LSTM."""

        def __init__(self, rngs: nnx.Rngs):
            self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(5, 6, rngs=rngs), rngs=rngs)
            self.head = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            return self.head(self.rnn(x)[:, -1])

    model: Any = Reader(nnx.Rngs(0))
    rule = js.Threshold(alpha=0.0, unit=js.Group())
    model = js.couple(model, js.groups(model, x), (".*", rule))
    units = model.head.kernel.units0
    units.threshold[...] = jnp.where(jnp.arange(6) < 2, 9.0, 0.0)
    folded = js.fold(model)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-5, atol=1e-6)
    assert not np.asarray(folded.rnn.cell.dense_h.kernel[...]).reshape(6, 4, 6)[..., :2].any()
    small, _ = js.shrink(model, x)
    assert small.rnn.cell.dense_h.kernel.shape == (4, 16)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-6)
