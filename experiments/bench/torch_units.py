"""Torch-Pruning's side of `torch_pruning`, in its own process: it needs only torch.

    PYTHON torch_units.py FOLDER NETWORK DENSITY

Reads the weights from FOLDER/weights.npz, prunes, and writes the kept channels of each convolution
to FOLDER/theirs.json.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import nn

VGG16 = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool"]
VGG16 += [512, 512, 512, "pool", 512, 512, 512, "pool"]
SIZES: dict[str, list] = {"vgg16": VGG16, "resnet20": [16, 32, 64]}


class VGG(nn.Module):
    def __init__(self, sizes: list):
        super().__init__()
        widths = [size for size in sizes if size != "pool"]
        pairs = list(zip([3, *widths], widths, strict=False))
        self.sizes = sizes
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairs])
        self.norms = nn.ModuleList([nn.BatchNorm2d(o) for o in widths])
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = zip(self.convs, self.norms, strict=True)
        for size in self.sizes:
            if size == "pool":
                x = nn.functional.max_pool2d(x, 2)
            else:
                conv, norm = next(layers)
                x = torch.relu(norm(conv(x)))
        return self.head(x.mean(dim=(2, 3)))


class Block(nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.a = nn.Conv2d(i, o, 3, stride=1 if i == o else 2, padding=1, bias=False)
        self.an, self.bn = nn.BatchNorm2d(o), nn.BatchNorm2d(o)
        self.b = nn.Conv2d(o, o, 3, padding=1, bias=False)
        self.skip = nn.ModuleList([] if i == o else [nn.Conv2d(i, o, 1, stride=2, bias=False)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.b(torch.relu(self.an(self.a(x)))))
        for conv in self.skip:
            x = conv(x)
        return torch.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, sizes: list):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        outs = [size for size in sizes for _ in range(3)]
        ins = [16, *outs]
        self.blocks = nn.ModuleList([Block(i, o) for i, o in zip(ins, outs, strict=False)])
        self.head = nn.Linear(sizes[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


def ported(model: nn.Module, weights: Any) -> nn.Module:
    """The model with weights by the paths that Flax gives them."""
    state = model.state_dict()
    for path in weights.files:
        layer, name = path.rsplit("/", 1)
        value = weights[path]
        if name == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        names = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
        key = f"{layer.replace('/', '.')}.{({'var': 'running_var'} | names).get(name, name)}"
        state[key] = torch.tensor(np.ascontiguousarray(value))
    model.load_state_dict(state)
    return model.eval()


def main(folder: Path, network: str, density: float) -> None:
    make = {"vgg16": VGG, "resnet20": ResNet}[network]
    model: Any = ported(make(SIZES[network]), np.load(folder / "weights.npz"))
    x = torch.zeros(1, 3, 32, 32)
    before = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    start = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=1 - density,
        ignored_layers=[model.head],
    )
    kept = {name: list(range(conv.out_channels)) for name, conv in before.items()}
    names = {module: name for name, module in model.named_modules()}
    for group in pruner.step(interactive=True):
        for dependency, gone in group:
            module, handler = dependency.target.module, dependency.handler.__name__
            if handler == "prune_out_channels" and isinstance(module, nn.Conv2d):
                own = kept[names[module]]
                kept[names[module]] = [n for k, n in enumerate(own) if k not in set(gone)]
        group.prune()
    seconds = time.process_time() - start
    macs, parameters = torch_pruning.utils.count_ops_and_params(model, x)
    found = {
        "kept": {name.replace(".", "/"): rows for name, rows in kept.items()},
        "operations": macs,
        "parameters": parameters,
        "seconds": seconds,
    }
    (folder / "theirs.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
