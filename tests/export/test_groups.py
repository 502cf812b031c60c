"""What must shrink together, on nets of every kind: found, cut, and the same outputs."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

import jsparse as js
from experiments.common.networks import convolution
from jsparse._surgery import fold
from jsparse.export import Use
from jsparse.export._shrinking.attributes import stock
from jsparse.export._shrinking.groups import described, free, try_each
from jsparse.export._shrinking.units import Units, same_outputs
from tests.support.sampled import one_in
from tests.support.zoo import modules
from tests.support.zoo_cases import CASES, prepared

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers
# (group, width, the weights that shrink with it, all or some); from the code of each net
WANTED = {
    "resnet": [
        ("stem/kernel:3", 6, {"blocks/0/a/kernel", "blocks/0/b/kernel", "blocks/1/skip/0/kernel"}),
        ("blocks/0/a/kernel:3", 6, {"blocks/0/an/scale", "blocks/0/b/kernel"}),
        ("blocks/1/b/kernel:3", 8, {"blocks/1/skip/0/bias", "head/kernel"}),
    ],
    "dense net": [
        ("a/kernel:3", 4, {"b/kernel", "cn/scale", "c/kernel", "head/kernel"}),
        ("b/kernel:3", 5, {"cn/mean", "c/kernel", "head/kernel"}),
    ],
    "u-net": [("up/kernel:3", 5, {"out/kernel"}), ("down/kernel:3", 4, {"mid/kernel"})],
    "mobile net": [("a/kernel:3", 8, {"an/scale", "b/kernel", "c/kernel"})],
    "grouped": [  # whole groups, an input of each, an output of each
        ("a/kernel:3", 2, {"b/kernel"}),
        ("a/kernel:3#2", 3, {"b/kernel", "c/kernel"}),
        ("b/kernel:3", 3, {"c/kernel"}),
    ],
    "lstm": [("rnn/cell/hf/kernel:1", 6, {"rnn/cell/io/kernel", "head/kernel"})],
    "decoder": [
        ("embed/embedding:1", 8, {"place", "attentions/0/query/kernel", "norms/0/scale"}),
        ("attentions/0/query/kernel:1", 4, {"attentions/0/out/kernel"}),
        ("attentions/0/query/kernel:2", 2, {"attentions/0/key/kernel"}),
        ("ups/0/kernel:1", 10, {"downs/0/kernel"}),
    ],
    "shared keys": [  # of two heads each: keys, queries of all keys
        ("query/kernel:1", 2, {"key/kernel", "value/kernel", "out/kernel"}),
        ("query/kernel:1#2", 2, {"out/kernel"}),
    ],
    "tied": [("w:1", 8, {"hidden"})],
    "group norm": [("a/kernel:3", 4, {"norm/scale", "b/kernel"})],
    "padded shortcut": [("stem/kernel:3", 4, {"a/kernel", "head/kernel"})],
}


def tried(name: str) -> Units:
    """The units of a net, of which some can be cut, with the outputs of zeros in their place."""
    units = Units(fold(prepared(CASES[name].make, {})), (CASES[name].inputs(0, 2),), stock)
    try_each(units)
    gone = {n: [0] for n in free(units)}
    assert gone
    assert units.smaller(gone, [same_outputs]).faults == []
    return units


@pytest.mark.parametrize("name", one_in(2, WANTED))
def test_the_groups_of_a_net(name: str) -> None:
    groups = described(tried(name)).values()
    found = {group.name: group for group in groups if not group.held}
    for group, width, weights in WANTED[name]:
        assert found[group].width == width
        assert weights <= {member.path for member in found[group].members}
        for member in found[group].members:  # each unit has as many positions as any other
            counts = np.bincount(member.units[member.units >= 0], minlength=width)
            assert (counts == counts[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CASES) - set(WANTED)))
def test_the_groups_of_other_nets_can_be_cut(name: str) -> None:
    tried(name)


def test_a_group_that_stays_says_which_operation_holds_it(tmp_path: Path) -> None:
    found = js.groups(prepared(CASES["padded shortcut"].make, {}), (2, 8, 8, 3))
    assert "`pad` at tests/support/zoo.py" in found["a/kernel:3"].held
    assert found["head/kernel:1"].held == "the model returns them"
    assert found["stem/kernel:2"].held == "it is an input of the model"
    with pytest.raises(KeyError, match=r"no group 'stem'; there are .*stem/kernel:2"):
        found["stem"]
    text = found.page(tmp_path / "groups.html").read_text()
    layers = lambda group: {member.path.rpartition("/")[0] for member in group.members}
    assert text.count("<circle") == sum(len(layers(group)) for group in found)
    assert text.count("stroke-dasharray") == sum(bool(group.held) for group in found)
    places = [text.index(f">{layer}</text>") for layer in ("stem", "a", "head")]
    assert places == sorted(places) and "`pad` at tests/support/zoo.py" in text
    with pytest.raises(IsADirectoryError, match="pass a file"):
        found.page(tmp_path)


class Gates(nnx.Module):
    """A product of two halves of a layer, softmax over units, and a scale by the width."""

    def __init__(self, rngs: nnx.Rngs):
        self.up, self.down = nnx.Linear(4, 12, rngs=rngs), nnx.Linear(6, 8, rngs=rngs)
        self.mix, self.out = nnx.Linear(8, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        a, b = jnp.split(self.up(x), 2, axis=-1)
        x = self.down(nnx.silu(a) * b)
        x = self.mix(x / jnp.sqrt(x.shape[-1]))
        return self.out(nnx.softmax(x))


def test_halves_go_together_and_a_softmax_holds_its_units() -> None:
    model = Gates(nnx.Rngs(0))
    found = js.groups(model, (2, 4))
    (up,) = [member for member in found["up/kernel:1"].members if member.path == "up/kernel"]
    assert up.units.tolist() == [*range(6), *range(6)]
    assert "`reduce_max`" in found["mix/kernel:1"].held
    units = Units(fold(model), (jnp.ones((2, 4)),), stock)
    try_each(units)
    small = units.smaller({n: [0, 3] for n in free(units)}, [same_outputs])
    assert small.faults == []
    factors = {"down/kernel": 0.75**0.5, "down/bias": 0.75**0.5}  # x is over the root of 6, not 8
    assert small.factors == pytest.approx(factors)


class Experts(nnx.Module):
    """Rows sorted by experts, each times the matrices of its own."""

    def __init__(self, rngs: nnx.Rngs):
        self.enter, self.leave = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.up = nnx.Param(jax.random.normal(rngs.params(), (3, 6, 8)))
        self.down = nnx.Param(jax.random.normal(rngs.params(), (3, 8, 6)))

    def __call__(self, x: Array) -> Array:
        x = self.enter(x)
        sizes = jnp.array([1, 0, len(x) - 1])
        y = jax.lax.ragged_dot(
            nnx.relu(jax.lax.ragged_dot(x, self.up[...], sizes)), self.down[...], sizes
        )
        return self.leave(x + y)


class Pieces(nnx.Module):
    """Attention as in a Set Transformer: heads are pieces of the batch, queries are added too."""

    def __init__(self, rngs: nnx.Rngs):
        self.query, self.key, self.value, self.out = (
            nnx.Linear(n, 12, rngs=rngs) for n in (4, 4, 4, 12)
        )

    def __call__(self, x: Array) -> Array:
        q, k, v = (
            jnp.concatenate(jnp.split(layer(x), 2, axis=-1), axis=0)
            for layer in (self.query, self.key, self.value)
        )
        k = checkpoint_name(k, "key")
        weights = nnx.softmax(q @ k.mT / np.sqrt(2 * q.shape[-1]), axis=-1)
        return self.out(jnp.concatenate(jnp.split(q + weights @ v, 2, axis=0), axis=-1))


class Fused(nnx.Module):
    """One projection makes queries, which are normalized, keys and values of two heads."""

    def __init__(self, rngs: nnx.Rngs):
        self.qkv, self.out = nnx.Linear(4, 36, rngs=rngs), nnx.Linear(12, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*x.shape[:-1], 3, 2, -1), -3, 0)
        q = self.norm(q) * q.shape[-1] ** -0.5
        weights = nnx.softmax(jnp.einsum("bthk,bshk->bhts", q, k), axis=-1)
        return self.out(jnp.einsum("bhts,bshk->bthk", weights, v).reshape(*x.shape[:-1], -1))


class Looked(nnx.Module):
    """An embedding times the root of its width, and tied to the head."""

    def __init__(self, norm: type, rngs: nnx.Rngs):
        self.embed, self.place = (nnx.Embed(n, 8, rngs=rngs) for n in (7, 5))
        self.norms = modules([norm(8, rngs=rngs) for _ in range(2)])
        self.inner = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        tokens = x.astype(jnp.int32)
        places = jnp.arange(x.shape[1])[None]
        x = self.embed(tokens) * np.sqrt(self.embed.features) + self.place(places)
        return self.embed.attend(self.norms[1](x + self.inner(self.norms[0](x))))


@pytest.mark.parametrize(
    ("kind", "shape", "wanted"),
    [
        (Experts, (5, 4), {"enter/kernel:1": 6, "up:2": 8}),
        (Pieces, (2, 5, 4), {"query/kernel:1": 6}),
        (Fused, (2, 5, 4), {"qkv/kernel:1": 6}),
        (functools.partial(Looked, nnx.LayerNorm), (2, 5), {"embed/embedding:1": 8}),
        (functools.partial(Looked, nnx.RMSNorm), (2, 5), {"embed/embedding:1": 8}),
    ],
    ids=["experts", "pieces", "fused", "layer norm", "root mean square"],
)
def test_factors_go_to_parts_of_weights_and_through_lookups(
    kind: Callable[[nnx.Rngs], nnx.Module], shape: tuple[int, ...], wanted: dict[str, int]
) -> None:
    units = Units(fold(kind(nnx.Rngs(0))), (jnp.ones(shape),), stock)
    try_each(units)
    found = {group.name: group.width for group in described(units).values() if not group.held}
    assert found.items() >= wanted.items()
    assert units.smaller({n: [1] for n in free(units)}, [same_outputs]).faults == []


class Again(nnx.Module):
    """One attention that is called twice."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.enter, self.leave = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.attention(self.enter(x))
        return self.leave(self.attention(x))


def test_weights_that_several_calls_share_take_a_factor() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    small, record = js.prune.units(Again(), x, density=0.5)
    assert small.attention.head_dim == 2
    assert {round(one, 4) for one in record.factors.values()} == {round(0.5**0.5, 4)}


class Rematerialized(nnx.Module):
    """Layers in a scan that gives their weights back, as it does around `nnx.remat`."""

    def __init__(self) -> None:
        @nnx.split_rngs(splits=2)
        @nnx.vmap
        def make(rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
            return nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

        self.layers = make(nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def run(layer: nnx.MultiHeadAttention, x: Array) -> Array:
            return layer(x)

        return run(self.layers, x)


def test_weights_of_layers_under_remat_take_a_factor() -> None:
    small, record = js.prune.units(Rematerialized(), jnp.ones((2, 5, 8)), density=0.5)
    assert small.layers.head_dim == 2
    assert {round(one, 4) for one in record.factors.values()} == {round(0.5**0.5, 4)}


class Unused(nnx.Module):
    """Computes more than it returns, as the last block of N-BEATS does."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.enter, self.back = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
        self.leave = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = nnx.relu(self.enter(x))
        x = x - self.back(h)
        return self.leave(h)


def test_weights_that_no_output_needs_shrink_with_what_they_read() -> None:
    small, record = js.prune.units(Unused(), jnp.ones((2, 4)), density=0.5)
    assert small.back.kernel.shape == (4, 4)
    assert dict(record.stayed) == {}


def test_statistics_of_a_norm_take_no_factor() -> None:
    small, record = js.prune.units(Fused(nnx.Rngs(0)), (2, 5, 4), density=0.5)
    assert record.factors.keys() == {"norm/scale", "norm/bias"}
    assert (small.norm.mean[...] == 0).all() and small.norm.scale.shape == (3,)


class Beside(nnx.Module):
    """A convolution as a matrix product; then a layer of width 1 beside a wider one."""

    def __init__(self, rngs: nnx.Rngs):
        options = {"conv_general_dilated": convolution.conv_as_matmul, "rngs": rngs}
        self.a, self.b = (nnx.Conv(n, 6, (3, 3), **options) for n in (2, 6))
        self.one, self.wide = nnx.Linear(6, 1, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.a(x)
        x = nnx.relu(x + self.b(nnx.relu(x))).mean((1, 2))
        wide = self.wide(x)
        return self.out(jnp.concatenate([self.one(x), wide + jnp.roll(wide, 1, -1)], -1))


def test_a_single_unit_stays_and_is_listed_where_it_is_all_there_is() -> None:
    found = js.groups(Beside(nnx.Rngs(0)), (2, 8, 8, 2))
    assert [(group.name, group.width) for group in found if not group.held] == [("a/kernel:3", 6)]
    single = [group.name for group in found if group.held == "it is a single unit"]
    assert single == [
        "wide/kernel:1",
        "out/kernel:0",
    ]  # a shift ties all of the first to each other


def grouped(rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(12, 12, (1,), feature_group_count=3, rngs=rngs)


class Shuffled(nnx.Module):
    """Grouped convolutions, and a shuffle between them after which their groups cross."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem, self.a, self.b = nnx.Linear(2, 12, rngs=rngs), grouped(rngs), grouped(rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        y = self.a(x)
        y = y.reshape(*y.shape[:-1], 3, 4).swapaxes(-1, -2).reshape(y.shape)
        return (x + self.b(y)).sum(-1)


def test_groups_that_a_shuffle_crosses_stay() -> None:
    found = js.groups(Shuffled(nnx.Rngs(0)), (1, 1, 2))
    free = [(group.name, group.width) for group in found if not group.held]
    assert free == [("stem/kernel:1", 4)]
    for name, op in {"a/kernel:2": "conv_general_dilated", "b/kernel:1": "reshape"}.items():
        assert f"`{op}` at tests/export/test_groups.py" in found[name].held
        assert found[name].held.endswith("ties its units to parts of others")


class Spelled(nnx.Module):
    """A width spelled out in the code, in a line of several operations."""

    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.b((jnp.exp(self.a(x)) * 2).reshape(-1, 2, 4).reshape(-1, 8))


def test_a_size_in_the_code_names_the_operation_that_fails() -> None:
    held = js.groups(Spelled(nnx.Rngs(0)), (1, 3))["a/kernel:1"].held
    assert "`reshape` at tests/export/test_groups.py" in held and "fixes a size in the code" in held


class Given(Spelled):
    """The same, as sizes by name and over several lines."""

    def __call__(self, x: Array, sizes: tuple[int, ...] = ()) -> Array:
        x = jnp.exp(self.a(x))
        x = x.reshape(-1, *sizes) * 2
        return self.b(x.reshape(len(x), -1))


def test_a_size_by_name_names_the_operation_and_the_line_that_fail() -> None:
    found = js.groups(Given(nnx.Rngs(0)), (2, 3), sizes=(2, 4))
    held = [group.held for group in found if group.name.startswith("a/kernel:1")]
    first = inspect.getsourcelines(Given.__call__)[1]
    for op, line, text in zip(("dot_general", "reshape"), (3, 2), held, strict=True):
        said = f"`{op}` at tests/export/test_groups.py:{first + line} fixes a size in the code"
        assert text.startswith(said) and "by name" not in text


def test_outputs_of_grouped_convolutions_stay() -> None:
    rngs = nnx.Rngs(0)
    found = js.groups(nnx.Sequential(grouped(rngs), grouped(rngs)), (1, 1, 12))
    held = {group.name: group.held for group in found}
    assert held.pop("layers/0/kernel:2") == ""
    assert held == {
        "layers/0/kernel:1": "it is an input of the model",
        "layers/1/kernel:2": "the model returns them",
    }


def test_sums_over_units_are_named_and_heads_count_as_their_width() -> None:
    found = js.groups(prepared(CASES["decoder"].make, {}), CASES["decoder"].inputs(0, 2))
    heads, width = (found[f"attentions/0/query/kernel:{axis}"].members for axis in (1, 2))
    stream = found["embed/embedding:1"].members
    for members, size in ((heads, 2), (width, 4), (stream, 1)):  # 4 heads of width 2
        assert {m.across for m in members if m.use & (Use.MAKES | Use.READS)} == {size}
    assert "tests/support/zoo.py" in found["embed/embedding:1"].means
    assert not found["ups/0/kernel:1"].means
    assert found["ups/0/kernel:1"].parameters == 8 * 10 + 10 + 10 * 8


def centered_in_two_groups(x: Array) -> Array:
    """As in the VAE of Stable Diffusion, the code says how many groups there are."""
    apart = x.reshape(len(x), 2, -1)
    return (apart - apart.mean(-1, keepdims=True)).reshape(x.shape)


@pytest.mark.parametrize("blocks", [2, 5])
def test_groups_that_stay_are_found_in_one_pass(
    blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, rngs, tries = [], nnx.Rngs(0), []
    for _ in range(blocks):
        layers += [nnx.Linear(4, 4, rngs=rngs), centered_in_two_groups, nnx.silu]
    model = nnx.Sequential(*layers, nnx.Linear(4, 3, rngs=rngs))
    whole = Units.smaller
    monkeypatch.setattr(
        Units, "smaller", lambda self, gone, tests: tries.append(0) or whole(self, gone, tests)
    )
    groups = js.groups(model, (2, 4))
    within = [group.name.partition(":")[0] for group in groups if not group.held]
    assert within == [f"layers/{3 * n}/kernel" for n in range(blocks)]
    assert len(groups) == 2 * blocks + 2
    assert len(tries) <= 7 * blocks + 3


class OwnHeads(nnx.Module):
    """Has a number of heads, and the most that it may have."""

    def __init__(self, most: int) -> None:
        self.heads, self.most, rngs = 4, most, nnx.Rngs(0)
        self.key = nnx.Linear(6, 12, use_bias=False, rngs=rngs)
        self.leave = nnx.Linear(12, 5, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        apart = self.key(x).reshape(*x.shape[:-1], min(self.heads, self.most), 3)
        return self.leave(nnx.softmax(apart).reshape(*x.shape[:-1], -1))


def test_a_group_that_stays_names_the_attribute_to_mend() -> None:
    x = jnp.ones((2, 6))
    held = {group.width: group.held for group in js.groups(OwnHeads(4), x)}
    assert held[4].startswith("`reshape` at ")
    assert held[4].endswith("; `mend` may set heads (4), most (4)")

    def mend(module: nnx.Module) -> dict[str, int]:
        return {"heads": module.key.kernel.shape[1] // 3} if isinstance(module, OwnHeads) else {}

    for most, given in ((4, mend), (9, stock)):  # the latter is certain, and found by trying
        assert {g.width: g.held for g in js.groups(OwnHeads(most), x, mend=given)}[4] == ""
        small, _ = js.prune.units(OwnHeads(most), x, density=0.5, mend=given)
        assert small.heads == 2 and small(x).shape == (2, 5)


class Linear(nnx.Module):
    """Linear attention, whose queries and keys are never 0."""

    def __init__(self, rngs: nnx.Rngs):
        self.heads, self.width = 2, 3
        self.q, self.k, self.v, self.out = (nnx.Linear(6, 6, rngs=rngs) for _ in range(4))

    def __call__(self, x: Array) -> Array:
        apart = lambda y: y.reshape(*x.shape[:-1], self.heads, self.width)
        q, k, v = nnx.elu(apart(self.q(x))) + 1, nnx.elu(apart(self.k(x))) + 1, apart(self.v(x))
        total = jnp.einsum("btnd,bnd->btn", q, k.sum(1))
        read = jnp.einsum("btnd,bsnd,bsne->btne", q, k, v) / total[..., None]
        return self.out(read.reshape(*x.shape[:-1], -1))


def test_groups_are_free_only_where_units_can_be_removed() -> None:
    model, x = Linear(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (2, 5, 6))
    found = {group.name for group in js.groups(model, x) if not group.held}
    small, record = js.prune.units(model, x, density=0.5)
    assert found == {"q/kernel:1"} == record.widths.keys()  # the heads, not the width of queries
    assert small.heads == 1


class Joined(nnx.Module):
    """Several layers are called in one line, and the code fixes a size of one of them."""

    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b, self.c = (nnx.Linear(4, 8, rngs=rngs) for _ in range(3))
        self.out = nnx.Linear(24, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        ends = jnp.concatenate(
            [jnp.tanh(self.a(x)), self.b(x) * jnp.ones((1, 8)), -self.c(x)], axis=-1
        )
        return self.out(ends)


def test_of_several_operations_in_one_line_the_one_that_fails_is_named() -> None:
    model, x = Joined(nnx.Rngs(0)), jnp.ones((2, 4))
    for layer in (model.a, model.b, model.c):
        layer.kernel[...] = layer.kernel[...].at[:, 5:].set(0.0)
    small, record = js.shrink(model, x)
    assert [layer.kernel.shape[1] for layer in (small.a, small.b, small.c)] == [5, 8, 5]
    (why,) = record.stayed.values()
    assert "`mul` at" in why and "fixes a size in the code" in why
