"""The nets of the zoo with parts of them dead, and the sizes that shrinking must leave.

Long because it is one table.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._paths import path_of
from jsparse._slots import slots, walk_modules
from jsparse.export import Record
from tests.support import zoo
from tests.support.cases import normal

ALL = slice(None)


def vectors(key: int, batch: int, width: int = 6) -> Array:
    return normal(key, batch, width)


def images(key: int, batch: int, channels: int = 3) -> Array:
    return normal(key, batch, 8, 8, channels)


def tokens(key: int, batch: int) -> Array:
    return jnp.asarray(np.random.default_rng(key).integers(0, 11, (batch, 7), np.int32))


class Case(NamedTuple):
    """A net, what is set to zero in it, and the sizes that are left.

    Attributes:
      make: builds it.
      inputs: makes fresh ones from a key and a batch size.
      dead: indices set to zero, by path.
      shapes: expected, by path; of all variables that change.
      attributes: some of those expected, by path.
    """

    make: Callable[..., nnx.Module]
    inputs: Callable[[int, int], Array]
    dead: dict[str, list[tuple]]
    shapes: dict[str, tuple[int, ...]]
    attributes: dict[str, Any]


def norms(path: str, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/{name}": (n,) for name in ("mean", "var", "scale", "bias")}


def layer(path: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/kernel": shape, f"{path}/bias": shape[-1:]}


def cells(path: str, names: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/{name}/kernel": shape for name in names.split()}


CASES = {
    # 0 reaches only b's unit 6, which reaches nothing; nothing reads 1; nothing reaches 2 and 3,
    # whose biases leave constants
    "mlp": Case(
        zoo.MLP,
        vectors,
        {"a/kernel": [(ALL, [2, 3])], "b/kernel": [(0, slice(6)), (1,)], "c/kernel": [(6,)]},
        {**layer("a", 6, 4), **layer("b", 4, 6), "c/kernel": (6, 3)},
        {"a/out_features": 4, "b/in_features": 4, "b/out_features": 6, "c/in_features": 6},
    ),
    # constants after relu: 0 from a's 1 and b's 0; 0.7 from a's 3 and b's 5, as b does not pad
    "lenet": Case(
        zoo.LeNet,
        partial(images, channels=1),
        {"a/kernel": [(..., [1, 3])], "b/kernel": [(..., [0, 5])], "d/kernel": [(4,)]},
        {
            **layer("a", 3, 3, 1, 2),
            **layer("b", 3, 3, 2, 4),
            **layer("c", 16, 9),
            "d/kernel": (9, 3),
        },
        {"a/out_features": 2, "a/kernel_shape": (3, 3, 1, 2), "b/in_features": 2},
    ),
    # 0's filter 5 leaves a constant above 0, which the padding of 1 turns into a frame: it stays
    "vgg": Case(
        zoo.VGG,
        images,
        {
            "convs/0/kernel": [(..., [0, 5])],
            "convs/1/kernel": [(ALL, ALL, 2)],
            "convs/2/kernel": [(ALL, ALL, [1, 4]), (..., 3)],
        },
        {
            **layer("convs/0", 3, 3, 3, 4),
            **norms("norms/0", 4),
            **layer("convs/1", 3, 3, 4, 6),
            **norms("norms/1", 6),
            **layer("convs/2", 3, 3, 6, 7),
            **norms("norms/2", 7),
            "head/kernel": (7, 3),
        },
        {"norms/0/num_features": 4, "convs/1/in_features": 4, "convs/1/out_features": 6},
    ),
    # of the stream before block 1, all readers of 4 are dead, but only some of 2
    "resnet": Case(
        zoo.ResNet,
        images,
        {
            "blocks/0/a/kernel": [(ALL, ALL, 4)],
            "blocks/0/b/kernel": [(ALL, ALL, 1)],
            "blocks/1/a/kernel": [(ALL, ALL, [2, 4]), (..., 0)],
            "blocks/1/skip/0/kernel": [(ALL, ALL, [2, 4])],
            "head/kernel": [(0,)],
        },
        {
            **layer("stem", 3, 3, 3, 5),
            "blocks/0/a/kernel": (3, 3, 5, 5),
            **norms("blocks/0/an", 5),
            "blocks/0/b/kernel": (3, 3, 5, 5),
            **norms("blocks/0/bn", 5),
            "blocks/1/a/kernel": (3, 3, 5, 7),
            **norms("blocks/1/an", 7),
            "blocks/1/b/kernel": (3, 3, 7, 7),
            **norms("blocks/1/bn", 7),
            **layer("blocks/1/skip/0", 1, 1, 5, 7),
            "head/kernel": (7, 3),
        },
        {"blocks/1/a/in_features": 5, "blocks/1/bn/num_features": 7, "stem/out_features": 5},
    ),
    # the channels that the shortcut adds are written in the code: 0 stays
    "padded shortcut": Case(
        zoo.PaddedResNet,
        images,
        {"head/kernel": [([0, 3],)], "a/kernel": [(ALL, ALL, 1)]},
        {**layer("stem", 3, 3, 3, 3), **layer("a", 3, 3, 3, 7), "head/kernel": (7, 3)},
        {},
    ),
    "wide resnet": Case(
        zoo.WRN,
        images,
        {
            "a/kernel": [(ALL, ALL, 3)],
            "b/kernel": [(ALL, ALL, [0, 5])],
            "head/kernel": [(3,)],
        },
        {
            **layer("stem", 3, 3, 3, 5),
            **norms("an", 5),
            **layer("a", 3, 3, 5, 6),
            **norms("bn", 6),
            **layer("b", 3, 3, 6, 5),
            **norms("cn", 5),
            "head/kernel": (5, 3),
        },
        {},
    ),
    # b's 4 leaves a constant above 0: taken up by c, which does not pad, and by the head
    "dense net": Case(
        zoo.DenseNet,
        images,
        {
            "b/kernel": [(ALL, ALL, 1), (..., 4)],
            "c/kernel": [(ALL, ALL, [1, 6])],
            "head/kernel": [([1, 6, 12],)],
        },
        {
            **layer("a", 3, 3, 3, 3),
            **layer("b", 3, 3, 3, 3),
            **norms("cn", 6),
            **layer("c", 1, 1, 6, 3),
            "head/kernel": (9, 3),
        },
        {},
    ),
    "u-net": Case(
        zoo.UNet,
        partial(images, channels=2),
        {
            "mid/kernel": [(ALL, ALL, 1)],
            "up/kernel": [(ALL, ALL, 2)],
            "out/kernel": [(ALL, ALL, [1, 7])],
        },
        {
            **layer("down", 3, 3, 2, 3),
            **layer("mid", 3, 3, 3, 5),
            **layer("up", 2, 2, 5, 4),
            "out/kernel": (3, 3, 7, 2),
        },
        {"up/in_features": 5, "up/out_features": 4, "up/kernel_shape": (2, 2, 5, 4)},
    ),
    # nothing reads 1; the depthwise filter of 2 is empty; nothing reaches 0
    "mobile net": Case(
        zoo.MobileNet,
        images,
        {
            "a/kernel": [(..., 0)],
            "b/kernel": [(..., 2)],
            "c/kernel": [(ALL, ALL, 1)],
        },
        {
            **layer("a", 1, 1, 3, 5),
            **norms("an", 5),
            **layer("b", 3, 3, 1, 5),
            **norms("bn", 5),
            "c/kernel": (1, 1, 5, 5),
        },
        {"b/feature_group_count": 5, "b/in_features": 5, "b/out_features": 5},
    ),
    # the second of three groups goes, and of each group the first output
    "grouped": Case(
        zoo.Grouped,
        images,
        {"c/kernel": [(ALL, ALL, [0, 3, 4, 5, 6])]},
        {**layer("a", 1, 1, 3, 4), **layer("b", 3, 3, 2, 4), "c/kernel": (1, 1, 4, 2)},
        {"b/feature_group_count": 2, "b/in_features": 4, "b/out_features": 4},
    ),
    # nothing reads 2; the cell of 4 stays at 0, whatever its gates do; nothing reads embedding 1
    "lstm": Case(
        partial(zoo.Recurrent, nnx.LSTMCell),
        tokens,
        {
            **{f"rnn/cell/{name}/kernel": [(2,)] for name in ("hi", "hf", "ho")},
            "rnn/cell/hg/kernel": [(2,), (ALL, 4)],
            "rnn/cell/hg/bias": [(4,)],
            **{f"rnn/cell/{name}/kernel": [(1,)] for name in ("ii", "if_", "io")},
            "rnn/cell/ig/kernel": [(1,), (ALL, 4)],
            "head/kernel": [(2,)],
        },
        {
            "embed/embedding": (11, 4),
            **cells("rnn/cell", "ii if_ ig io", 4, 4),
            **cells("rnn/cell", "hi hf hg ho", 4, 4),
            **{f"rnn/cell/h{name}/bias": (4,) for name in "ifgo"},
            "head/kernel": (4, 3),
        },
        {"rnn/cell/hidden_features": 4, "rnn/cell/in_features": 4, "embed/features": 4},
    ),
    "optimized lstm": Case(
        partial(zoo.Recurrent, nnx.OptimizedLSTMCell),
        tokens,
        {
            "rnn/cell/dense_h/kernel": [(2,)],
            "rnn/cell/dense_i/kernel": [(1,)],
            "head/kernel": [(2,)],
        },
        {
            "embed/embedding": (11, 4),
            **layer("rnn/cell/dense_h", 5, 20),
            "rnn/cell/dense_i/kernel": (4, 20),
            "head/kernel": (5, 3),
        },
        {"rnn/cell/hidden_features": 5, "rnn/cell/dense_h/out_features": 20},
    ),
    "gru": Case(
        partial(zoo.Recurrent, nnx.GRUCell),
        tokens,
        {"rnn/cell/dense_h/kernel": [([2, 3],)], "head/kernel": [([2, 3],)]},
        {},
        {"rnn/cell/hidden_features": 4},
    ),
    # of attention 0, nothing reads head 1, and head 2 brings nothing
    "encoder": Case(
        lambda rngs: zoo.Transformer(False, rngs),
        tokens,
        {
            "attentions/0/out/kernel": [(1,)],
            "attentions/0/value/kernel": [(ALL, 2)],
            "attentions/0/value/bias": [(2,)],
            "downs/0/kernel": [(3,)],
            "ups/1/kernel": [(ALL, [0, 5])],
        },
        {
            **{f"attentions/0/{n}/kernel": (8, 2, 2) for n in ("query", "key", "value")},
            **{f"attentions/0/{n}/bias": (2, 2) for n in ("query", "key", "value")},
            "attentions/0/out/kernel": (2, 2, 8),
            **layer("ups/0", 8, 9),
            "downs/0/kernel": (9, 8),
            **layer("ups/1", 8, 8),
            "downs/1/kernel": (8, 8),
        },
        {
            "attentions/0/num_heads": 2,
            "attentions/0/qkv_features": 4,
            "attentions/0/query/out_features": (2, 2),
            "attentions/0/out/in_features": (2, 2),
        },
    ),
    # the embedding is tied to the output: no row and no column of it goes
    "decoder": Case(
        lambda rngs: zoo.Transformer(True, rngs),
        tokens,
        {"attentions/1/out/kernel": [([0, 3],)], "embed/embedding": [(ALL, 3), (5,)]},
        {
            **{f"attentions/1/{n}/kernel": (8, 2, 2) for n in ("query", "key", "value")},
            **{f"attentions/1/{n}/bias": (2, 2) for n in ("query", "key", "value")},
            "attentions/1/out/kernel": (2, 2, 8),
        },
        {"attentions/1/num_heads": 2, "attentions/0/num_heads": 4, "embed/num_embeddings": 11},
    ),
    "attention by hand": Case(
        zoo.OwnAttention,
        lambda key, batch: normal(key, batch, 7, 6),
        {"out/kernel": [([2, 3],)]},
        {"qkv": (6, 3, 3, 2), "out/kernel": (6, 3)},
        {"out/in_features": 6},
    ),
    "group norm": Case(
        zoo.GroupNormed,
        images,
        {"b/kernel": [(ALL, ALL, [0, 2, 3])]},
        {
            **layer("a", 3, 3, 3, 6),
            "norm/scale": (6,),
            "norm/bias": (6,),
            "b/kernel": (3, 3, 6, 2),
        },
        {"norm/num_groups": 3, "norm/group_size": 2},
    ),
    # 3 only adds what the table holds: constants, other ones at each place; it stays
    "positions": Case(
        zoo.Positions,
        lambda key, batch: normal(key, batch, 2 + 3 * key, 6),
        {"a/kernel": [(ALL, 3)], "table": [(slice(2), 3)], "b/kernel": [(5,)]},
        {**layer("a", 6, 7), "table": (9, 7), "b/kernel": (7, 3)},
        {},
    ),
    # queries 2 and 3 share keys and values: these go with them
    "shared keys": Case(
        zoo.SharedKeys,
        lambda key, batch: normal(key, batch, 7, 6),
        {"out/kernel": [([2, 3],)]},
        {
            "query/kernel": (6, 2, 2),
            "query/bias": (2, 2),
            **{f"{name}/kernel": (6, 1, 2) for name in ("key", "value")},
            **{f"{name}/bias": (1, 2) for name in ("key", "value")},
            "out/kernel": (2, 2, 6),
        },
        {"query/out_features": (2, 2), "key/out_features": (1, 2), "out/in_features": (2, 2)},
    ),
    # 2 and 3 come from place 1 in each group, so that of each group goes
    "shuffle net": Case(
        zoo.ShuffleNet,
        images,
        {"c/kernel": [(ALL, ALL, [2, 3])], "down/kernel": [([2, 3],)], "up/kernel": [(1,)]},
        {
            **layer("b", 3, 3, 4, 6),
            **layer("down", 6, 3),
            **layer("up", 3, 6),
            "c/kernel": (1, 1, 6, 3),
        },
        {"b/out_features": 6, "b/in_features": 8, "b/feature_group_count": 2},
    ),
    "stacked": Case(
        zoo.Stacked,
        vectors,
        {"blocks/down/kernel": [(ALL, [1, 4]), (0, 2)], "out/kernel": [(1,), (ALL, 0)]},
        {
            "blocks/up/kernel": (3, 6, 6),
            "blocks/up/bias": (3, 6),
            "blocks/down/kernel": (3, 6, 6),
            "head/kernel": (6, 3, 1),
            "head/bias": (3, 1),
            "out/kernel": (3, 1, 3),
        },
        {"head/kernel_shape": (6, 3, 1), "head/bias_shape": (3, 1), "blocks/up/out_features": 6},
    ),
    # only c and d have widths that nothing else fixes; d makes up for the quotient by that of c
    "sizes in the code": Case(
        zoo.Stubborn,
        vectors,
        {f"{name}/kernel": [(1,), (ALL, 2)] for name in "bcde"},
        {**layer("c", 8, 6), **layer("d", 6, 3), "e/kernel": (3, 3)},
        {},
    ),
    "loops": Case(
        zoo.Looped,
        vectors,
        {"downs": [(ALL, [0, 4])], "a/kernel": [(ALL, 1)], "b/kernel": [(1,)]},
        {"ups": (3, 8, 5), "downs": (3, 5, 8)},
        {},
    ),
    "tied": Case(zoo.Tied, vectors, {"w": [(ALL, [1, 4])]}, {"w": (6, 6), "hidden": (6,)}, {}),
}


FRESH: dict[str, dict[str, Callable[[nnx.Rngs], nnx.Module]]] = {
    "mobile net": {
        "b": lambda rngs: nnx.Conv(5, 5, (3, 3), feature_group_count=5, rngs=rngs),
        "bn": lambda rngs: nnx.BatchNorm(5, rngs=rngs),
    },
    "encoder": {
        "attentions/0": lambda rngs: nnx.MultiHeadAttention(
            2, 8, qkv_features=4, decode=False, rngs=rngs
        )
    },
    "lstm": {"rnn/cell": lambda rngs: nnx.LSTMCell(4, 4, rngs=rngs)},
    "group norm": {"norm": lambda rngs: nnx.GroupNorm(6, num_groups=3, rngs=rngs)},
    "u-net": {"up": lambda rngs: nnx.ConvTranspose(5, 4, (2, 2), strides=(2, 2), rngs=rngs)},
}


def prepared(make: Callable[..., nnx.Module], dead: dict[str, list[tuple]]) -> nnx.Module:
    """A net with random weights, biases that are not zero, and zeros at the places named."""
    model = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))  # to run initializers takes long
    random = np.random.default_rng(0)

    def fill(keys: tuple, leaf: Any) -> Any:
        path = path_of(keys)
        value = filling(path, leaf, random)
        for index in dead.get(path, []):
            value[tuple(np.asarray(i) if isinstance(i, list) else i for i in index)] = 0.0
        return jnp.asarray(value)

    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(fill, state))


def filling(path: str, leaf: Any, random: np.random.Generator) -> Any:
    shape, name = leaf.shape, path.rpartition("/")[2]
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.zeros(shape, leaf.dtype)
    if name == "scale":
        return np.ones(shape, np.float32)
    if name in ("bias", "hidden", "mean", "var"):
        rises = {"bias": (-0.5, 0.7), "hidden": (-0.5, 0.7), "mean": (0.6, -0.4), "var": (0.9, 1.3)}
        return np.linspace(*rises[name], int(np.prod(shape)), dtype=np.float32).reshape(shape)
    fan_in = max(1, int(np.prod(shape[:-1])))
    return random.normal(size=shape, scale=fan_in**-0.5).astype(np.float32)


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    kinds = nnx.Param | nnx.BatchStat
    return {s.path: s.value.shape for s in slots(model) if isinstance(s.value, kinds)}


@nnx.jit
def run(model: nnx.Module, x: Array) -> Array:
    return model(x)


def outputs(model: nnx.Module, x: Array) -> np.ndarray:
    model = nnx.clone(model)
    model.eval()
    return np.asarray(run(model, x))


def attribute(model: nnx.Module, path: str) -> Any:
    module, _, name = path.rpartition("/")
    return getattr(dict(walk_modules(model))[module], name)


def masked(model: Any, record: Record) -> Any:
    """The full model with zeros in place of all that was cut."""
    full = nnx.clone(model)
    for slot in slots(full):
        if slot.path in record.cuts:
            cut = record.cuts[slot.path]
            slot.value[...] = jnp.asarray(cut.zeroed(np.asarray(slot.value[...])))
    return full
