"""Makes calibration.npz: what the authors' code prunes, for tests/prune/test_calibration.py.

Command: python tests/prune/golden/calibration.py FOLDER     (needs torch; nothing else here does)
with a checkout of github.com/locuslab/wanda, whose `lib/prune.py` runs as it is on a transformer of
two blocks: Wanda and SparseGPT, at half the weights and at 2:4.

The file holds the inputs ("inputs", [batches, tokens, width]), the weights of each layer in the
layout of PyTorch ("before/BLOCK/LAYER"), the weights after each case ("CASE/BLOCK/LAYER"), and the
versions and the seed as JSON ("settings").
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import nn

SEED, BATCHES, TOKENS, WIDTH, HIDDEN, BLOCKS = 0, 3, 24, 16, 32, 2


class Block(nn.Module):
    """One head of attention and two layers, each after a norm without parameters."""

    def __init__(self):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.q, self.k, self.v, self.o = (linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = linear(WIDTH, HIDDEN), linear(HIDDEN, WIDTH)

    def forward(self, x, attention_mask=None, position_ids=None):
        norm = lambda x: nn.functional.layer_norm(x, (WIDTH,))
        h = norm(x)
        weights = (self.q(h) @ self.k(h).transpose(-1, -2) / WIDTH**0.5).softmax(-1)
        x = x + self.o(weights @ self.v(h))
        return (x + self.down(torch.relu(self.up(norm(x)))),)


class Model(nn.Module):
    """As much of a language model as the authors' code looks at."""

    seqlen = TOKENS

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(use_cache=False, hidden_size=WIDTH)
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.model.embed_tokens = nn.Identity()
        self.hf_device_map = {"model.embed_tokens": "cpu"}

    def forward(self, x):
        for layer in self.model.layers:
            (x,) = layer(x, attention_mask=None, position_ids=None)
        return x


def authors(folder: Path):
    """Their `lib.prune`, without the libraries that load models and texts."""
    for name, inside in {
        "transformers": {"Conv1D": type("Conv1D", (), {})},
        "datasets": {},
    }.items():
        module = ModuleType(name)
        for key in ("load_dataset", "AutoTokenizer", "LlamaTokenizer"):
            setattr(module, key, None)
        for key, value in inside.items():
            setattr(module, key, value)
        sys.modules[name] = module
    sys.path.insert(0, str(folder))
    from lib import prune

    torch.cuda.synchronize = lambda *_: None
    return prune


def main(folder: Path) -> None:
    prune = authors(folder)
    torch.manual_seed(SEED)
    inputs = torch.randn(BATCHES, TOKENS, WIDTH) * torch.rand(WIDTH).mul(2).exp()
    prune.get_loaders = lambda *_, **__: ([(x[None], None) for x in inputs], None)
    start = Model()
    arrays = {"inputs": inputs.numpy()}

    def store(name: str, model: Model) -> None:
        for n, block in enumerate(model.model.layers):
            for layer, module in block.named_children():
                arrays[f"{name}/{n}/{layer}"] = module.weight.detach().numpy().copy()

    store("before", start)
    # their SparseGPT drops one weight more than asked, int(n * sparsity) + 1
    cases = {
        "wanda": (prune.prune_wanda, 0.5, 0, 0),
        "wanda 2:4": (prune.prune_wanda, 0.5, 2, 4),
        "sparsegpt": (prune.prune_sparsegpt, 0.4999, 0, 0),
        "sparsegpt 2:4": (prune.prune_sparsegpt, 0.5, 2, 4),
    }
    for name, (method, sparsity, n, m) in cases.items():
        model = Model()
        model.load_state_dict(start.state_dict())
        args = SimpleNamespace(
            nsamples=BATCHES, seed=SEED, sparsity_ratio=sparsity, use_variant=False
        )
        method(args, model, None, torch.device("cpu"), prune_n=n, prune_m=m)
        store(name, model)
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    settings = {
        "seed": SEED,
        "torch": torch.__version__,
        "locuslab/wanda": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
    }
    file = Path(__file__).with_suffix(".npz")
    np.savez_compressed(file, settings=json.dumps(settings), **arrays)
    print(f"{file}: {len(arrays)} arrays, {file.stat().st_size} bytes; {settings}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
