#!/usr/bin/env bash
# coremltools prunes whole layers of binary or ternary weights where a target_sparsity of a part was asked for.
#
# Guess: OpMagnitudePrunerConfig(target_sparsity=t) sets the floor(size * t) smallest magnitudes to 0, as its docs say,
#   and of equal ones just enough.
# Versions: coremltools 9.0, numpy 2.4.6, on Linux (weights are read back by decompress_weights, nothing is predicted).
# What happens: everything up to the magnitude of that rank goes, with all its ties. Binary weights are all gone at
#   10 %, ternary ones as soon as the target is above their share of zeros, and weights palettized before (the joint
#   compression of the docs) lose whole clusters. Blocks go by ties of norms too. n:m pruning counts and is exact, but
#   takes no palettized weights. Nothing is raised, and the file is small.
# Who is hurt: pruning what has few values: binary and ternary networks, low-bit quantized or palettized models. With
#   many values the target is met: in float32 exactly, on the grid of int8 to 2 points.
# Remedy: n_m_ratio, or zeros made before the conversion and OpThresholdPrunerConfig, which stores them sparsely.
#
# Output seen (part of the weights set to 0):
#                             zeros before  target 0.10  target 0.50  target 0.75  n_m_ratio (2, 4)
#   normal                    0.000         0.100        0.500        0.750        0.500
#   binary                    0.000         1.000        1.000        1.000        0.500
#   ternary                   0.333         0.333        1.000        1.000        0.532
#   palettized to 2 bits      0.000         0.544        0.544        0.998        raises

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import coremltools as ct
import coremltools.optimize.coreml as compress
import numpy as np
from coremltools.converters.mil import Builder as mb

TARGETS = (0.1, 0.5, 0.75)


def linear(weight):
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 256))], opset_version=ct.target.iOS18)
    def program(x):
        return mb.linear(x=x, weight=weight)

    return ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )


def zeros(model):
    dense = compress.decompress_weights(model)
    (weight,) = (data.val for data in compress.get_weights_metadata(dense, weight_threshold=256 * 256).values())
    return float(np.mean(weight == 0))


def pruned(model, joint, **options):
    config = compress.OptimizationConfig(compress.OpMagnitudePrunerConfig(**options))
    return zeros(compress.prune_weights(model, config, joint_compression=joint))


normal = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
binary = np.sign(normal)
ternary = binary * (np.abs(normal) > np.quantile(np.abs(normal), 1 / 3))
palette = compress.OptimizationConfig(compress.OpPalettizerConfig(mode="uniform", nbits=2))
models = {
    "normal": linear(normal),
    "binary": linear(binary),
    "ternary": linear(ternary),
    "palettized to 2 bits": compress.palettize_weights(linear(normal), palette),
}
head = "".join(f"target {target:<6.2f}" for target in TARGETS)
print(f"{'':<26}zeros before  {head}n_m_ratio (2, 4)")
found = {}
for name, model in models.items():
    joint = name.startswith("palettized")
    found[name] = [pruned(model, joint, target_sparsity=target) for target in TARGETS]
    cells = "".join(f"{part:<13.3f}" for part in found[name])
    counted = None if joint else pruned(model, joint, n_m_ratio=(2, 4))
    print(f"{name:<26}{zeros(model):<14.3f}{cells}{'raises' if joint else f'{counted:.3f}'}")
    assert joint or 0.499 < counted < 0.55, name
np.testing.assert_allclose(found["normal"], TARGETS, atol=0.001)
assert found["binary"] == [1, 1, 1], "ties are counted now"
assert found["ternary"][1:] == [1, 1], "ties are counted now"
assert found["palettized to 2 bits"][0] > 0.2
PYTHON
