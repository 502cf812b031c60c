"""Makes calibration.npz: what the authors' code prunes, for tests/prune/test_calibration.py.

Command: python -m tests.prune.golden.calibration FOLDER     (needs torch; nothing else here does)
with a checkout of github.com/locuslab/wanda, whose `lib/prune.py` runs as it is on a transformer of
two blocks: Wanda and SparseGPT, at half the weights and at 2:4.

The file holds the inputs ("inputs", [batches, tokens, width]), the weights of each layer in the
layout of PyTorch ("before/BLOCK/LAYER"), the weights after each case ("CASE/BLOCK/LAYER"), and the
versions and the seed as JSON ("settings").
"""

import argparse
import json
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np

from experiments.bench.pruners import LAYERS, layers_of, pruned, transformer

SEED, BATCHES, TOKENS, WIDTH, HIDDEN, BLOCKS = 0, 3, 24, 16, 32, 2
CASES = {
    "wanda": ("wanda", 0.5, 0, 0),
    "wanda 2:4": ("wanda", 0.5, 2, 4),
    # their SparseGPT drops one weight more than asked, int(n * sparsity) + 1
    "sparsegpt": ("sparsegpt", 0.4999, 0, 0),
    "sparsegpt 2:4": ("sparsegpt", 0.5, 2, 4),
}


def main(folder: Path) -> None:
    """Draw a transformer and inputs of unequal size, prune, write the file."""
    rng = np.random.default_rng(SEED)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    inputs = normal(BATCHES, TOKENS, WIDTH) * np.exp(normal(WIDTH))
    shapes = dict.fromkeys(LAYERS, (WIDTH, WIDTH))
    shapes |= {"up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}
    before = {
        f"{n}/{name}": normal(*shape) / np.float32(shape[1] ** 0.5)
        for n in range(BLOCKS)
        for name, shape in shapes.items()
    }
    arrays = {"inputs": inputs} | {f"before/{key}": weight for key, weight in before.items()}
    for case, (method, sparsity, n, m) in CASES.items():
        model = transformer(before, heads=1)
        pruned(folder, method, model, inputs, sparsity, n, m)
        arrays |= {f"{case}/{key}": weight for key, weight in layers_of(model).items()}
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    settings = {"seed": SEED, "torch": metadata.version("torch"), "locuslab/wanda": commit}
    file = Path(__file__).with_suffix(".npz")
    np.savez_compressed(file, settings=json.dumps(settings), **arrays)
    print(f"{file.name}: {len(arrays)} arrays, {file.stat().st_size} bytes; {settings}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
