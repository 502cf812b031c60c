"""The authors' pruning of a transformer on calibration data, in its own process.

    python -m experiments.bench.pruners FOLDER CASE FILE METHOD

FOLDER is a checkout of github.com/locuslab/wanda, whose `lib/prune.py` runs as it is. CASE is an
npz file with "inputs" [sequences, tokens, width] and the weights "BLOCK/LAYER" in PyTorch's layout.
It prints the seconds and processor seconds that pruning took, and writes the new weights to FILE.
torch and jax must not share a process.
"""

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

LAYERS = ("q", "k", "v", "o", "up", "down")
HEADS = 8


def transformer(weights: Mapping[str, np.ndarray], heads: int) -> Any:
    """As much of a language model as the authors' code looks at; norms without parameters."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, n: int):
            super().__init__()
            for name in LAYERS:
                weight = torch.from_numpy(np.array(weights[f"{n}/{name}"]))
                layer = nn.Linear(*reversed(weight.shape), bias=False)
                layer.weight.data = weight
                self.add_module(name, layer)

        def forward(self, x: Any, attention_mask: Any = None, position_ids: Any = None) -> Any:
            norm = lambda x: nn.functional.layer_norm(x, x.shape[-1:])
            apart = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)
            h = norm(x)
            q, k, v = (apart(layer(h)) for layer in (self.q, self.k, self.v))
            scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            x = x + self.o((scores @ v).transpose(1, 2).flatten(2))
            return (x + self.down(torch.relu(self.up(norm(x)))),)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            depth = sum(name.endswith("/q") for name in weights)
            self.config = SimpleNamespace(use_cache=False, hidden_size=len(weights["0/q"]))
            self.hf_device_map = {"model.embed_tokens": "cpu"}
            self.model = nn.Module()
            self.model.layers = nn.ModuleList(Block(n) for n in range(depth))

        def forward(self, x: Any) -> Any:
            for layer in self.model.layers:
                (x,) = layer(x, attention_mask=None, position_ids=None)
            return x

    return Model()


def code(folder: Path) -> Any:
    """The authors' `lib.prune`, without the libraries that load models and texts."""
    import torch

    kinds = {"transformers": {"Conv1D": type("Conv1D", (), {})}, "datasets": {"load_dataset": None}}
    for name, inside in kinds.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(inside)
    sys.path.insert(0, str(folder))
    torch.cuda.synchronize = lambda *_: None
    return importlib.import_module("lib.prune")


def pruned(
    folder: Path, method: str, model: Any, inputs: np.ndarray, sparsity: float, n: int, m: int
) -> tuple[float, float]:
    """Prune a model in place with "wanda" or "sparsegpt"; n of m fall, or 0 and 0.

    Returns:
      Seconds, and seconds of all processors.
    """
    import torch

    theirs = code(folder)
    data = [(torch.from_numpy(x)[None], None) for x in inputs]
    theirs.get_loaders = lambda *_, **__: (data, None)
    model.seqlen = inputs.shape[1]
    args = SimpleNamespace(nsamples=len(inputs), seed=0, sparsity_ratio=sparsity, use_variant=False)
    run = getattr(theirs, f"prune_{method}")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        start, used = time.perf_counter(), time.process_time()
        run(args, model, None, torch.device("cpu"), prune_n=n, prune_m=m)
        return time.perf_counter() - start, time.process_time() - used


def layers_of(model: Any) -> dict[str, np.ndarray]:
    """The weights by block and layer, in PyTorch's layout."""
    return {
        f"{n}/{name}": getattr(block, name).weight.detach().numpy().copy()
        for n, block in enumerate(model.model.layers)
        for name in LAYERS
    }


def main(folder: str, case: str, file: str, method: str) -> None:
    """Prune half the weights of each layer."""
    given = dict(np.load(case))
    inputs = given.pop("inputs")
    model = transformer(given, HEADS)
    # their SparseGPT drops one weight more than asked, int(n * sparsity) + 1
    sparsity = {"wanda": 0.5, "sparsegpt": 0.5 - 1e-6}[method]
    print(*pruned(Path(folder), method, model, inputs, sparsity, 0, 0))
    np.savez(file, **layers_of(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
