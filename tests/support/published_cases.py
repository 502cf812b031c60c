"""Published models with dead units, and how many of these shrinking takes out.

Long because it is one table.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from flax import nnx
from jax import Array

from tests.support import published_images as images
from tests.support import published_sequences as sequences
from tests.support import zoo
from tests.support.cases import normal
from tests.support.zoo_cases import ALL, shapes, tokens, vectors
from tests.support.zoo_cases import images as pictures


class Published(NamedTuple):
    """A model with dead units.

    Attributes:
      make: builds it.
      inputs: makes some from a key and a batch size.
      dead: indices set to zero, by path.
      units: how many units that is, by path and axis of a weight that loses them.
      stayed: how many of them stay, by the same.
      why: what `stayed` of the record says, by path.
      layout: whose it is, for the guide.
      note: what stays, for the guide.
    """

    make: Callable[..., nnx.Module]
    inputs: Callable[[int, int], Array]
    dead: Mapping[str, list[tuple]]
    units: Mapping[tuple[str, int], int]
    layout: str
    note: str = ""
    stayed: Mapping[tuple[str, int], int] = {}
    why: Mapping[str, str] = {}


def rows(key: int, batch: int, length: int = 7, width: int = 3) -> Array:
    return normal(key, batch, length, width)


def nodes(key: int, batch: int) -> Array:
    return vectors(key, 4)  # of one graph


def last(*places: int) -> tuple:
    return (..., list(places))


MODELS = {
    # the second and the last state of the first mixer, by their keys and queries
    "Mamba-2": Published(
        sequences.Mamba2,
        tokens,
        {
            "mixers/0/enter/kernel": [last(25, 29, 31, 35)],
            "mixers/0/conv/bias": [([13, 17, 19, 23],)],
        },
        {("mixers/0/enter/kernel", 1): 4},
        "Dao and Gu 2024",
    ),
    "GPT-2": Published(
        sequences.GPT2,
        tokens,
        {"leave/kernel": [([1, 5],)], "up/kernel": [last(0, 3, 7)]},
        {("up/kernel", 1): 3, ("enter/kernel", 1): 2},
        "Radford et al. 2019",
        "values alone: `split` makes three equal parts of one product",
        stayed={("enter/kernel", 1): 2},
        why={"leave/kernel": r"2 of 8 .*`split` at .*published_sequences.py:\d+ fixes a size"},
    ),
    "Gemma": Published(
        sequences.Gemma,
        tokens,
        {"gate/w": [(0, ALL, [2, 5])], "leave/w": [(1,)], "down/w": [(9,)]},
        {("gate/w", 2): 3, ("both/w", 2): 1},
        "Gemma Team 2024",
    ),
    "mixture of experts": Published(
        sequences.Mixture,
        vectors,
        {"gates": [(ALL, ALL, [1, 4])], "downs": [(ALL, 6)]},
        {("ups", 2): 3},
        "Shazeer et al. 2017",
    ),
    "WaveNet": Published(
        sequences.WaveNet,
        rows,
        {
            "filters/0/kernel": [last(1, 2)],
            "filters/0/bias": [([1, 2],)],
            "head/kernel": [(ALL, 3)],
        },
        {("gates/0/kernel", 2): 2, ("skips/1/kernel", 2): 1},
        "van den Oord et al. 2016",
    ),
    "graph network": Published(
        sequences.GraphNet,
        nodes,
        {
            "messages/0/kernel": [last(1, 3)],
            "messages/0/bias": [([1, 3],)],
            "updates/0/kernel": [last(0)],
            "updates/0/bias": [(0,)],
            "updates/1/kernel": [last(2)],
            "updates/1/bias": [(2,)],
        },
        {("messages/0/kernel", 1): 2, ("updates/0/kernel", 1): 1, ("head/kernel", 0): 1},
        "Battaglia et al. 2018",
    ),
    "graph attention": Published(
        sequences.GraphAttention,
        nodes,
        {"head/kernel": [(slice(4, 8),)]},
        {("values/kernel", 1): 1},
        "Velickovic et al. 2018",
    ),
    "LSTM": Published(
        partial(zoo.Recurrent, nnx.OptimizedLSTMCell),
        tokens,
        {"rnn/cell/dense_h/kernel": [([2, 4],)], "head/kernel": [([2, 4],)]},
        {("rnn/cell/dense_h/kernel", 0): 2},
        "Hochreiter and Schmidhuber 1997",
    ),
    "ViT": Published(
        images.ViT,
        pictures,
        {"up/kernel": [last(0, 4)], "attention/out/kernel": [(2,)]},
        {("up/kernel", 1): 2, ("attention/query/kernel", 1): 1},
        "Dosovitskiy et al. 2021",
    ),
    "ConvNeXt": Published(
        images.ConvNeXt,
        pictures,
        {"up/kernel": [last(0, 4, 20)], "down/kernel": [([7, 8],)]},
        {("up/kernel", 1): 5},
        "Liu et al. 2022",
    ),
    "EfficientNet": Published(
        images.EfficientNet,
        pictures,
        {
            "depth/kernel": [last(2, 3)],
            "norms/2/scale": [([2, 3],)],
            "norms/2/bias": [([2, 3],)],
            "squeeze/kernel": [last(1)],
            "up/kernel": [last(7)],  # a constant that padding turns into a frame
        },
        {("up/kernel", 3): 3, ("squeeze/kernel", 1): 1},
        "Tan and Le 2019",
        "a constant that the padding of the depthwise convolution turns into a frame",
        stayed={("up/kernel", 3): 1},
        why={"up/kernel": r"1 of 12 .*`conv_\w+` at .*published_images.py:\d+ reads it"},
    ),
    "MLP-Mixer": Published(
        images.MLPMixer,
        pictures,
        {"across/kernel": [last(0, 4)], "down/kernel": [([7, 8],)]},
        {("across/kernel", 1): 2, ("up/kernel", 1): 2},
        "Tolstikhin et al. 2021",
    ),
    "Swin": Published(
        images.Swin,
        pictures,
        {"up/kernel": [last(0, 4)], "attention/out/kernel": [(1,)], "merge/kernel": [last(5)]},
        {("up/kernel", 1): 2, ("attention/query/kernel", 1): 1, ("merge/kernel", 1): 1},
        "Liu et al. 2021",
    ),
    "ESPCN": Published(
        images.ESPCN,
        partial(pictures, channels=1),
        {"c/kernel": [(ALL, ALL, 1)], "a/kernel": [last(4)], "a/bias": [(4,)]},
        {("a/kernel", 3): 1, ("b/kernel", 3): 4},
        "Shi et al. 2016",
    ),
    "diffusion U-Net": Published(
        images.Diffusion,
        pictures,
        {"b/kernel": [(ALL, ALL, [2, 3, 9])], "time/0/kernel": [last(1)]},
        {("a/kernel", 3): 2, ("down/kernel", 3): 1, ("time/0/kernel", 1): 1},
        "Ho et al. 2020",
    ),
    "DiT": Published(
        images.DiT,
        pictures,
        {"up/kernel": [last(0, 4)], "down/kernel": [([5],)]},
        {("up/kernel", 1): 3},
        "Peebles and Xie 2023",
    ),
    "U-Net": Published(
        zoo.UNet,
        partial(pictures, channels=2),
        {"mid/kernel": [(ALL, ALL, 1)], "out/kernel": [(ALL, ALL, [1, 7])]},
        {("down/kernel", 3): 1, ("up/kernel", 3): 1},
        "Ronneberger et al. 2015",
    ),
    "ShuffleNet": Published(
        zoo.ShuffleNet,
        pictures,
        {"c/kernel": [(ALL, ALL, [2, 3])], "down/kernel": [([2, 3],)]},
        {("b/kernel", 3): 2},
        "Zhang et al. 2018",
    ),
}


def removed(
    before: nnx.Module, after: nnx.Module, weights: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], int]:
    """How many positions some axes of weights have lost, by path and axis."""
    old, new = shapes(before), shapes(after)
    return {(path, axis): old[path][axis] - new[path][axis] for path, axis in weights}


def row(name: str) -> str:
    """The line of a model in the guide."""
    case = MODELS[name]
    dead, left = sum(case.units.values()), sum(case.stayed.values())
    return f"| {name} | {case.layout} | {dead - left} of {dead} | {case.note} |"
