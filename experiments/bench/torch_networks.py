"""The dense networks of `runtimes` in PyTorch, with the weights that it left beside their inputs.

Runs in its own process, with a Python that has torch and need not have JAX. Images lie plane by
plane or by channels, and the network is called as it is, frozen by `torch.jit` or compiled by
`torch.compile` (with a C++ compiler): whichever is faster. Norms after a convolution or a dense
layer are folded into it.
"""

import copy
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Weights = Mapping[str, np.ndarray]
"""By path, as in `nnx.state`."""
STAGES = ((1, 2), (3, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13))
"""VGG-16's convolutions."""
KERAS = 1e-3
"""The epsilon of ResNet-20's norms."""
ROUNDS, SAMPLE = 3, 0.05
"""Samples of each way to call a network, and the seconds that they fill."""


def linear(weights: Weights, path: str, norm: str = "") -> nn.Linear:
    """The layer at a path, heads of attention joined, with the norm after it."""
    bias = weights[f"{path}/bias"].reshape(-1)
    kernel = weights[f"{path}/kernel"].reshape(-1, len(bias))
    kernel, bias = folded(weights, kernel, bias, norm)
    return _filled(nn.Linear(*kernel.shape), kernel.T, bias)


def conv(
    weights: Weights, path: str, norm: str = "", stride: int = 1, epsilon: float = 1e-5
) -> nn.Module:
    """The convolution at a path, with the norm after it; images keep their sides, or half."""
    kernel = weights[f"{path}/kernel"]
    side, _, inputs, outputs = kernel.shape
    kernel, bias = folded(weights, kernel, np.zeros(outputs, np.float32), norm, epsilon)
    after = side > 1 and stride == 2  # JAX's "SAME" then pads an even side at its end only
    made = nn.Conv2d(inputs, outputs, side, stride, 0 if after else side // 2)
    _filled(made, kernel.transpose(3, 2, 0, 1), bias)
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), made) if after else made


def folded(
    weights: Weights, kernel: np.ndarray, bias: np.ndarray, norm: str, epsilon: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """A kernel [..., out] and a bias [out] times the norm at a path, if there is one."""
    if not norm:
        return kernel, bias
    names = ("scale", "bias", "mean", "var")
    scale, shift, mean, var = (weights[f"{norm}/{name}"] for name in names)
    factor = scale / np.sqrt(var + epsilon)
    return kernel * factor, (bias - mean) * factor + shift


def _filled(layer: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(kernel, np.float32))
    layer.bias.data = torch.from_numpy(np.ascontiguousarray(bias, np.float32))
    return layer


def dense(weights: Weights, *paths: str) -> nn.Sequential:
    """Dense layers with ReLU between them."""
    layers = [linear(weights, path) for path in paths]
    return nn.Sequential(*itertools.chain(*((layer, nn.ReLU()) for layer in layers)))[:-1]


def lenet5(weights: Weights) -> nn.Module:
    """Two convolutions, whose maps are flattened plane by plane here and by channels in JAX."""
    layers: list[nn.Module] = []
    for name in ("conv1", "conv2"):
        kernel = weights[f"{name}/kernel"].transpose(3, 2, 0, 1)
        layer = _filled(nn.Conv2d(*kernel.shape[1::-1], 5), kernel, weights[f"{name}/bias"])
        layers += [layer, nn.MaxPool2d(2), nn.ReLU()]
    kernel = weights["fc1/kernel"].reshape(4, 4, 50, -1).transpose(2, 0, 1, 3)
    head = dense({**weights, "fc1/kernel": kernel}, "fc1", "fc2")
    return nn.Sequential(*layers, nn.Flatten(), head)


class Mean(nn.Module):
    """Over each plane."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def vgg16(weights: Weights) -> nn.Module:
    """Thirteen convolutions in stages."""
    layers: list[nn.Module] = []
    for stage, numbers in enumerate(STAGES):
        layers += [nn.MaxPool2d(2)] * bool(stage)
        for n in numbers:
            layers += [conv(weights, f"conv{n:02}", f"norm{n:02}"), nn.ReLU()]
    head = linear(weights, "fc1", "norm"), nn.ReLU(), linear(weights, "fc2")
    return nn.Sequential(*layers, Mean(), *head)


class Block(nn.Module):
    """Of a residual network."""

    def __init__(self, weights: Weights, path: str):
        super().__init__()
        projects = f"{path}/shortcut/kernel" in weights
        stride = 2 if projects else 1
        self.first = conv(weights, f"{path}/conv1", f"{path}/norm1", stride, KERAS)
        self.second = conv(weights, f"{path}/conv2", f"{path}/norm2", 1, KERAS)
        shortcut = partial(conv, weights, f"{path}/shortcut", stride=2)
        self.shortcut = shortcut() if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(self.shortcut(x) + y)


def resnet20(weights: Weights) -> nn.Module:
    """A stem, nine blocks and a dense head."""
    blocks = [Block(weights, f"blocks/layers/{n}") for n in range(9)]
    stem = conv(weights, "stem", "norm", 1, KERAS), nn.ReLU()
    return nn.Sequential(*stem, *blocks, Mean(), linear(weights, "head"))


def layer_norm(weights: Weights, path: str) -> nn.LayerNorm:
    """The layer norm at a path, with Flax's epsilon."""
    scale, bias = weights[f"{path}/scale"], weights[f"{path}/bias"]
    return _filled(nn.LayerNorm(len(scale), eps=1e-6), scale, bias)


class Layer(nn.Module):
    """Attention of eight heads, then two dense layers."""

    heads = 8

    def __init__(self, weights: Weights, path: str):
        super().__init__()
        self.norm1, self.norm2 = (layer_norm(weights, f"{path}/norm{n}") for n in (1, 2))
        at = lambda name: linear(weights, f"{path}/attention/{name}")
        self.query, self.key, self.value, self.out = map(at, ("query", "key", "value", "out"))
        self.wide, self.narrow = (linear(weights, f"{path}/{n}") for n in ("wide", "narrow"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        parts = [
            layer(y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        seen = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.wide(self.norm2(x)), approximate="tanh"))


class Transformer(nn.Module):
    """Four layers between embeddings and a head."""

    def __init__(self, weights: Weights):
        super().__init__()
        table = lambda name: torch.from_numpy(weights[f"{name}/embedding"])
        self.characters = nn.Embedding.from_pretrained(table("characters"))
        self.places = nn.Parameter(table("places"))
        self.layers = nn.Sequential(*(Layer(weights, f"blocks/layers/{n}") for n in range(4)))
        self.norm, self.head = layer_norm(weights, "norm"), linear(weights, "head")

    def forward(self, text: Tensor) -> Tensor:
        x = self.characters(text) + self.places[: text.shape[1]]
        return self.head(self.norm(self.layers(x)))


NETWORKS: dict[str, Callable[[Weights], nn.Module]] = {
    "linear-4096": lambda weights: dense(weights, "layers/0"),
    "mlp-1024": lambda weights: dense(weights, *(f"layers/{n}" for n in range(4))),
    "lenet-300-100": lambda weights: nn.Sequential(
        nn.Flatten(), dense(weights, "fc1", "fc2", "fc3")
    ),
    "lenet-5": lenet5,
    "vgg-16": vgg16,
    "resnet-20": resnet20,
    "transformer-512": Transformer,
}


def call(file: str, name: str, threads: int) -> Callable[[], np.ndarray]:
    """The network, ready to be timed, on the inputs and weights that belong to a file.

    Raises:
      SystemExit: it is not written here.
      AssertionError: one way to call it gives other outputs than another.
    """
    if name not in NETWORKS:
        sys.exit(f"{name} is not written for PyTorch; {', '.join(NETWORKS)} are")
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    weights, x = np.load(f"{file}.npz"), torch.from_numpy(np.load(f"{file}.npy"))
    if x.ndim == 4:
        x = x.permute(0, 3, 1, 2).contiguous()
    elif name == "lenet-5":
        x = x[:, None]
    model, ways = NETWORKS[name](weights).eval(), {}
    orders = {"planes": torch.contiguous_format, "channels last": torch.channels_last}
    for order, form in orders.items() if x.ndim == 4 else [("", torch.contiguous_format)]:
        own, given = copy.deepcopy(model).to(memory_format=form), x.contiguous(memory_format=form)
        ways |= {f"{way} {order}".strip(): one for way, one in forms(own, given).items()}
    expected = model(x)
    for way, one in ways.items():
        torch.testing.assert_close(one(), expected, atol=1e-3, rtol=1e-3, msg=way)
    clock = time.process_time if threads == 1 else time.perf_counter
    took = {way: seconds(one, clock) for way, one in ways.items()}
    best = min(took, key=took.__getitem__)
    print(f"{name}: {best} of", {w: f"{1e3 * s:.3g}" for w, s in took.items()}, file=sys.stderr)
    return lambda: ways[best]().numpy()


def forms(model: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The ways to call a network on x."""
    import torch._inductor.config as inductor

    inductor.freezing = True  # weights are constants, as in the other runtimes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen = torch.jit.optimize_for_inference(torch.jit.trace(model, x))
    compiled = torch.compile(model, dynamic=False)
    return {"eager": lambda: model(x), "frozen": lambda: frozen(x), "compiled": lambda: compiled(x)}


def seconds(one: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Of a call, in the shortest sample."""
    for _ in range(3):
        one()
    found = []
    for _ in range(ROUNDS):
        calls, start = 0, clock()
        while not calls or clock() < start + SAMPLE:
            one()
            calls += 1
        found.append((clock() - start) / calls)
    return min(found)
