"""HarDNet and ThreshNet: networks that differ in which earlier layers each layer reads.

A network is a list of nodes, from which both the module and its costs are made. Inside a block a
harmonic layer l reads the layers l - 2^i for all 2^i that divide l; a dense one reads all before.

Reference: Chao et al., HarDNet: a low memory traffic network, ICCV 2019, section 3; Ju et al.,
ThreshNet: an efficient DenseNet using threshold mechanism to reduce connections, IEEE Access 2022.
Without the dropout before HarDNet's head.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.networks.operations import conv, max_pool

MULTIPLIER = 1.7
THRESHOLD = 57
"""Convolutions before a block from which on ThreshNet is harmonic. The authors' two networks are
written out by hand; any number from 41 to 57 gives both."""


class Node(NamedTuple):
    """A convolution with its norm and ReLU, or a pool."""

    reads: tuple[int, ...]
    """Earlier nodes whose outputs it joins along the channels; 0 is the image."""
    width: int
    """Channels of its output."""
    window: int
    """Side of the kernel or pool."""
    stride: int = 1
    kind: str = "post"
    """`post` convolves, normalizes and rectifies, `pre` normalizes, rectifies and convolves."""
    block: int = 0
    """Which block it is a layer of; 0 for none."""


class Stage(NamedTuple):
    """A block, the 1x1 convolution after it, and perhaps a 2x2 pool."""

    depth: int  # convolutions of the block
    growth: int  # channels of a harmonic layer that reads one other
    dense_growth: int  # channels of a dense layer, which is two convolutions
    outputs: int  # of the 1x1 convolution
    pool: bool


def links(layer: int) -> tuple[int, ...]:
    """The layers that a harmonic layer reads, nearest first; 0 is the block's input.

    >>> links(12), links(7)
    ((11, 10, 8), (6,))
    """
    return tuple(layer - 2**i for i in range(layer.bit_length()) if layer % 2**i == 0)


def width(layer: int, growth: float, multiplier: float = MULTIPLIER) -> int:
    """Channels of a harmonic layer: growth times multiplier for each link but one, made even.

    >>> [width(layer, 14) for layer in (1, 2, 4, 8, 16)]
    [14, 24, 40, 68, 116]
    """
    channels = float(growth)
    for _ in links(layer)[1:]:
        channels *= multiplier
    return int(int(channels + 1) / 2) * 2


def _harmonic(nodes: list[Node], stage: Stage, multiplier: float, block: int) -> tuple[int, ...]:
    first = len(nodes) - 1  # the block's input
    for layer in range(1, stage.depth + 1):
        reads = tuple(first + n for n in links(layer))
        nodes.append(Node(reads, width(layer, stage.growth, multiplier), 3, block=block))
    return tuple(first + n for n in range(1, stage.depth + 1) if n % 2 or n == stage.depth)


def _dense(nodes: list[Node], stage: Stage, block: int) -> tuple[int, ...]:
    reads = (len(nodes) - 1,)
    for _ in range(stage.depth // 2):
        bottleneck = Node(reads, 4 * stage.dense_growth, 1, kind="pre", block=block)
        layer = Node((len(nodes),), stage.dense_growth, 3, kind="pre", block=block)
        nodes += [bottleneck, layer]
        reads = (*reads, len(nodes) - 1)
    return reads


def wired(
    stem: tuple[int, int], stages: Sequence[Stage], threshold: float = 0, multiplier: float = 1.7
) -> list[Node]:
    """The nodes of a network: a stem, then blocks, dense below the threshold, else harmonic.

    Args:
      stem: channels of its two convolutions; a 3x3 pool follows.
      stages: the blocks.
      threshold: a block is dense where fewer convolutions come before it.
      multiplier: of harmonic widths.
    """
    nodes = [Node((), 3, 1), Node((0,), stem[0], 3, 2), Node((1,), stem[1], 3)]
    nodes.append(Node((2,), stem[1], 3, 2, "pool"))
    depth = 2
    for number, stage in enumerate(stages, start=1):
        if depth < threshold:
            reads = _dense(nodes, stage, number)
        else:
            reads = _harmonic(nodes, stage, multiplier, number)
        nodes.append(Node(reads, stage.outputs, 1))
        depth += stage.depth + 1
        if stage.pool:
            nodes.append(Node((len(nodes) - 1,), stage.outputs, 2, 2, "pool"))
    return nodes


def hardnet(size: int) -> list[Node]:
    """HarDNet39, 68 or 85, by its size, with plain convolutions."""
    last = (4, 160, 1024, 0)
    sizes = {  # channels of the first convolution, then depth, growth, outputs and pool of stages
        39: (24, [(4, 16, 96, 1), (16, 20, 320, 1), (8, 64, 640, 1), last]),
        68: (32, [(8, 14, 128, 1), (16, 16, 256, 0), (16, 20, 320, 1), (16, 40, 640, 1), last]),
        85: (48, [(8, 24, 192, 1), (16, 24, 256, 0), (16, 28, 320, 1), (16, 36, 480, 0),
                  (16, 48, 720, 1), (4, 256, 1280, 0)]),
    }  # fmt: skip
    if size not in sizes:
        raise ValueError(f"hardnet got size {size}; give 39, 68 or 85")
    first, rows = sizes[size]
    stages = [Stage(d, k, 2, out, bool(pool)) for d, k, out, pool in rows]
    return wired((first, 2 * first), stages, multiplier=1.6 if size == 39 else MULTIPLIER)


def threshnet(
    size: int, narrow: int = 1, threshold: float = THRESHOLD, shallow: int = 1
) -> list[Node]:
    """ThreshNet79 or 95: dense blocks, then harmonic ones.

    Args:
      size: 79 or 95.
      narrow: divides all widths.
      threshold: 0 for all blocks harmonic, infinity for all dense, at the same depth.
      shallow: divides the depth of all blocks, and the threshold.
    """
    few, many = {79: ((12, 16, 24), (128, 192, 288)), 95: ((12, 24, 32), (128, 256, 384))}.get(
        size, ((), ())
    )
    if not few or narrow < 1 or shallow < 1:
        raise ValueError(
            f"threshnet got size {size}, narrow {narrow}, shallow {shallow}; give 79 or 95, and 1 "
            "or more"
        )
    rows = [*zip(few, (14, 16, 20), (32,) * 3, many, (1, 1, 0), strict=True)]
    rows += [(16, 40, 40, 480, 1), (4, 160, 160, 960, 0)]
    of = lambda width: max(2, width // narrow)
    stages = [
        Stage(max(2, 2 * round(depth / shallow / 2)), of(growth), of(dense), of(out), bool(pool))
        for depth, growth, dense, out, pool in rows
    ]
    return wired((of(32), of(64)), stages, threshold / shallow)


def densely(nodes: Sequence[Node]) -> list[Node]:
    """The same network with each layer of a block reading all before it, nearest first."""
    made = []
    for index, node in enumerate(nodes):
        if node.block and node.kind == "post":
            first = min(n for n, one in enumerate(nodes) if one.block == node.block) - 1
            node = node._replace(reads=tuple(range(index - 1, first - 1, -1)))
        made.append(node)
    return made


class Wired(nnx.Module):
    """A network of nodes with a mean over the last map and a dense head.

    Args:
      nodes: what each layer reads, from `hardnet`, `threshnet` or `wired`.
      classes: of the output.
      rngs: for the initial weights.
      limit: of the ReLU; 6 in HarDNet's code, none in ThreshNet's.
    """

    def __init__(
        self, nodes: Sequence[Node], rngs: nnx.Rngs, classes: int = 10, limit: float = math.inf
    ):
        self.nodes, self.limit = tuple(nodes), limit
        # He initialization from one draw: compiling one for each of a hundred shapes takes half a
        # minute
        drawn = jax.random.uniform(
            rngs.params(), (sum(weights(nodes, n) for n in nodes),), minval=-1
        )
        first = 0
        for n, node in enumerate(nodes[1:], start=1):
            if node.kind != "pool":
                inputs, half = channels(nodes, node), node.window // 2
                end = first + weights(nodes, node)
                part = drawn[first:end] * (6 / (inputs * node.window**2)) ** 0.5
                first = end
                how = {"padding": ((half, half),) * 2}
                how["kernel_init"] = lambda key, shape, dtype, part=part: part.reshape(shape)
                layer = conv(inputs, node.width, node.window, node.stride, rngs, **how)
                setattr(self, f"conv{n}", layer)
                normed = inputs if node.kind == "pre" else node.width
                setattr(self, f"norm{n}", nnx.BatchNorm(normed, momentum=0.9, rngs=rngs))
        self.head = nnx.Linear(nodes[-1].width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, h, w, 3] to logits [n, classes]; h and w are multiples of 32."""
        made: dict[int, jax.Array] = {0: x}
        for n, node in enumerate(self.nodes[1:], start=1):
            joined = [made[m] for m in node.reads]
            x = joined[0] if len(joined) == 1 else jnp.concatenate(joined, axis=-1)
            made[n] = self._run(n, node, x)
        return self.head(made[len(self.nodes) - 1].mean(axis=(1, 2)))

    def _run(self, n: int, node: Node, x: jax.Array) -> jax.Array:
        if node.kind == "pool":
            wide = node.window == 3
            return nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if wide else max_pool(x)
        layer, norm = getattr(self, f"conv{n}"), getattr(self, f"norm{n}")
        rectified = lambda x: jnp.clip(x, 0, self.limit) if self.limit < math.inf else nnx.relu(x)
        return layer(rectified(norm(x))) if node.kind == "pre" else rectified(norm(layer(x)))


def channels(nodes: Sequence[Node], node: Node) -> int:
    """Channels that a node reads."""
    return sum(nodes[n].width for n in node.reads)


def weights(nodes: Sequence[Node], node: Node) -> int:
    """Numbers in a node's kernel."""
    return 0 if node.kind == "pool" else channels(nodes, node) * node.width * node.window**2


def group_masks(dense: Sequence[Node], nodes: Sequence[Node]) -> dict[str, np.ndarray]:
    """Masks of kernels that turn a densely wired network into another one of the same widths.

    Args:
      dense: its nodes, each of which reads at least what the other's does.
      nodes: of the other one.

    Returns:
      By path, [side, side, in, out]: 1 for the channels that the other network reads.
    """
    masks = {}
    for n, (wide, node) in enumerate(zip(dense, nodes, strict=True)):
        if wide.reads != node.reads:
            kept = [np.full(dense[m].width, m in node.reads, np.float32) for m in wide.reads]
            shape = (wide.window, wide.window, channels(dense, wide), wide.width)
            masks[f"conv{n}/kernel"] = np.broadcast_to(np.concatenate(kept)[:, None], shape).copy()
    return masks


class Counts(NamedTuple):
    """What a network costs for one image.

    Attributes:
      links: outputs read, summed over the layers of blocks.
      multiply_adds: of all convolutions and the head.
      peak: bytes of the float32 activations alive at once, at most: outputs that are read later, a
        joined or normalized copy of a layer's inputs, and its output.
    """

    links: int
    multiply_adds: int
    peak: int


def count(nodes: Sequence[Node], side: int, classes: int = 10) -> Counts:
    """What a network costs for an image of side x side pixels."""
    last = {m: n for n, node in enumerate(nodes) for m in node.reads}
    sides, peak, total = [side], 0, 0
    for n, node in enumerate(nodes[1:], start=1):
        sides.append(-(-sides[node.reads[0]] // node.stride))
        total += weights(nodes, node) * sides[n] ** 2
        size = lambda m: nodes[m].width * sides[m] ** 2
        alive = sum(size(m) for m in range(n) if last[m] >= n)
        copied = len(node.reads) > 1 or node.kind == "pre"
        peak = max(peak, alive + copied * sum(map(size, node.reads)) + size(n))
    read = sum(len(node.reads) for node in nodes if node.block)
    return Counts(read, total + nodes[-1].width * classes, 4 * peak)


def parameters(nodes: Sequence[Node], classes: int = 10) -> int:
    """Trained numbers of the network: kernels, two for each channel of a norm, and the head."""
    total = (nodes[-1].width + 1) * classes
    for node in nodes[1:]:
        if node.kind != "pool":
            normed = channels(nodes, node) if node.kind == "pre" else node.width
            total += weights(nodes, node) + 2 * normed
    return total
