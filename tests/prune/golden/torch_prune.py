"""Makes torch_prune.npz: masks of torch.nn.utils.prune for tests/prune/test_torch_parity.py.

Command: python tests/prune/golden/torch_prune.py        (needs torch; nothing else here does)

The file holds each tensor ("tensor/NAME"), importance scores ("scores/NAME"), for each case the
masks after it ("CASE/NAME"), and the versions and seed as JSON ("settings").
"""

import json
from pathlib import Path

import numpy as np

SEED = 0
SHAPES = {
    "fc": (12, 20),
    "out": (5, 12),
    "conv": (8, 6, 3, 3),
    "seq": (6, 4, 5),
    "tiny": (1, 5),
}
"""In the layout of PyTorch: outputs, inputs, window."""


def tensors() -> dict[str, np.ndarray]:
    """Normal weights and, as scores, other normal numbers."""
    rng = np.random.default_rng(SEED)
    draw = lambda kind: {
        f"{kind}/{name}": rng.normal(size=shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    return draw("tensor") | draw("scores")


def cases(prune, inf: float) -> dict:
    """By name, what is done to the modules; each module holds one tensor, `weight`."""
    l1, ln, whole = prune.l1_unstructured, prune.ln_structured, prune.global_unstructured
    both = lambda m: [(m["fc"], "weight"), (m["out"], "weight")]

    def repeatedly(m: dict, s: dict) -> None:
        l1(m["conv"], "weight", 0.3)
        ln(m["conv"], "weight", 0.25, 2, 0)
        ln(m["conv"], "weight", 2, 1, 1)
        l1(m["conv"], "weight", 10)

    def three_times(m: dict, s: dict) -> None:
        for _ in range(3):
            l1(m["fc"], "weight", 0.2)

    def twice_globally(m: dict, s: dict) -> None:
        l1(m["fc"], "weight", 0.5)
        for amount in (0.3, 20):
            whole(both(m), prune.L1Unstructured, amount=amount)

    def two_masks(m: dict, s: dict) -> None:
        for name in ("fc", "scores"):
            values = m["fc"].weight if name == "fc" else s["fc"]
            prune.custom_from_mask(m["fc"], "weight", (values > 0).float())

    made = {
        "identity": lambda m, s: prune.identity(m["fc"], "weight"),
        "l1 count": lambda m, s: l1(m["fc"], "weight", 37),
        "l1 fraction": lambda m, s: l1(m["fc"], "weight", 0.3),
        "l1 half of five": lambda m, s: l1(m["tiny"], "weight", 0.5),
        "l1 none": lambda m, s: l1(m["fc"], "weight", 0),
        "l1 three times": three_times,
        "l1 by scores": lambda m, s: l1(m["fc"], "weight", 0.4, importance_scores=s["fc"]),
        "ln by scores": lambda m, s: ln(m["conv"], "weight", 3, 2, 0, importance_scores=s["conv"]),
        "fro": lambda m, s: ln(m["seq"], "weight", 0.5, "fro", 0),
        "nuc": lambda m, s: ln(m["seq"], "weight", 0.5, "nuc", 0),
        "repeatedly": repeatedly,
        "global fraction": lambda m, s: whole(both(m), prune.L1Unstructured, amount=0.4),
        "global count": lambda m, s: whole(both(m), prune.L1Unstructured, amount=55),
        "global by scores": lambda m, s: whole(
            both(m),
            prune.L1Unstructured,
            importance_scores={(m["fc"], "weight"): s["fc"], (m["out"], "weight"): s["out"]},
            amount=0.4,
        ),
        "global twice": twice_globally,
        "two masks": two_masks,
        "random": lambda m, s: prune.random_unstructured(m["fc"], "weight", 0.3),
        "random structured": lambda m, s: prune.random_structured(m["conv"], "weight", 0.4, 0),
        "random global": lambda m, s: whole(both(m), prune.RandomUnstructured, amount=0.3),
    }
    for n in (1, 2, 3.5, inf, -inf):
        for dim in range(4):
            made[f"ln {n} along {dim}"] = lambda m, s, n=n, dim=dim: ln(
                m["conv"], "weight", 0.34, n, dim
            )
    return made


def main() -> None:
    """Run all cases and write the file."""
    import torch
    from torch.nn.utils import prune

    torch.manual_seed(SEED)
    arrays = tensors()
    found = dict(arrays)
    scores = {name: torch.from_numpy(arrays[f"scores/{name}"]) for name in SHAPES}
    for case, run in cases(prune, float("inf")).items():
        modules = {}
        for name in SHAPES:
            modules[name] = torch.nn.Module()
            weight = torch.from_numpy(arrays[f"tensor/{name}"].copy())
            modules[name].register_parameter("weight", torch.nn.Parameter(weight))
        run(modules, scores)
        for name, module in modules.items():
            if prune.is_pruned(module):
                found[f"{case}/{name}"] = module.weight_mask.numpy().astype(bool)
                pruned = module.weight.detach().numpy().copy()
                prune.remove(module, "weight")
                assert (module.weight.detach().numpy() == pruned).all()
    public = [n for n, f in vars(prune).items() if getattr(f, "__module__", "") == prune.__name__]
    functions = sorted(name for name in public if name[0] != "_" and name.islower())
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    settings = versions | {"seed": SEED, "functions": functions}
    path = Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, settings=np.array(json.dumps(settings)), **found)
    print(f"{path.name}: {len(found)} arrays, {settings}")


if __name__ == "__main__":
    main()
