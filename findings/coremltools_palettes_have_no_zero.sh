#!/usr/bin/env bash
# coremltools palettizes a pruned weight without a zero in the palette: uniform palettes move all zeros to -1.4.
#
# Guess: where most of a weight is exactly 0, k-means makes 0 a centroid, and a uniform palette has 0 or, being so
#   small a loss, moves zeros by less than half a step to both sides.
# Versions: coremltools 9.0, numpy 2.4.6, scikit-learn 1.9.1 (weights are read back; nothing is predicted).
# What happens: a uniform palette is 2^n equal steps from minimum to maximum, and 0 falls between two of them: every
#   zero goes to the same side, so each output is shifted by the sum of its inputs times that value. K-means puts 5e-7
#   or less there. Both files store dense indices, no zero is left, and pruning afterwards has nothing to go by. Linear
#   quantization keeps all zeros, in all four types.
# Who is hurt: whoever palettizes a model that was pruned in training, without saying so again to coremltools: at 90 %
#   zeros and 2 bits uniform, the error is many times the output.
# Remedy: first OpThresholdPrunerConfig, then palettize_weights(..., joint_compression=True), which stores the mask.
#
# Output seen (256 x 256 normal weights, the largest kept):
#                                      zeros before  after  a pruned weight becomes  squared error / output
#   50% pruned, uniform, 2 bits        0.500         0.000  -1.42                    85.824
#   50% pruned, uniform, 4 bits        0.500         0.000  -0.189                   1.564
#   50% pruned, k-means, 4 bits        0.500         0.000  5.04e-07                 0.005
#   50% pruned, uniform, 4 bits, joint 0.500         0.500  0                        0.027
#   50% pruned, k-means, 4 bits, joint 0.500         0.500  0                        0.005
#   50% pruned, linear uint4           0.500         0.500  0                        0.006
#   90% pruned, uniform, 2 bits        0.900         0.000  -1.42                    656.273
#   90% pruned, uniform, 4 bits        0.900         0.000  -0.189                   12.073
#   90% pruned, k-means, 4 bits        0.900         0.000  6.89e-08                 0.001
#   90% pruned, uniform, 4 bits, joint 0.900         0.900  0                        0.010
#   90% pruned, k-means, 4 bits, joint 0.900         0.900  0                        0.001
#   90% pruned, linear uint4           0.900         0.900  0                        0.003

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 numpy==2.4.6 scikit-learn==1.9.1
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import coremltools as ct
import coremltools.optimize.coreml as compress
import numpy as np
from coremltools.converters.mil import Builder as mb


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


def weights(model):
    dense = compress.decompress_weights(model)
    (weight,) = (data.val for data in compress.get_weights_metadata(dense, weight_threshold=256 * 256).values())
    return weight


def palettized(model, joint, **options):
    config = compress.OptimizationConfig(compress.OpPalettizerConfig(**options))
    return weights(compress.palettize_weights(model, config, joint_compression=joint))


def quantized(model, dtype):
    config = compress.OptimizationConfig(compress.OpLinearQuantizerConfig(mode="linear", dtype=dtype))
    return weights(compress.linear_quantize_weights(model, config))


threshold = compress.OptimizationConfig(compress.OpThresholdPrunerConfig(threshold=1e-12))
normal = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
x = np.random.default_rng(1).random((256, 512)).astype(np.float32)
print("                                   zeros before  after  a pruned weight becomes  squared error / output")
for part in (0.5, 0.9):
    weight = np.where(np.abs(normal) > np.quantile(np.abs(normal), part), normal, 0)
    dense = linear(weight)
    sparse = compress.prune_weights(dense, threshold)
    results = {
        "uniform, 2 bits": palettized(dense, False, mode="uniform", nbits=2),
        "uniform, 4 bits": palettized(dense, False, mode="uniform", nbits=4),
        "k-means, 4 bits": palettized(dense, False, mode="kmeans", nbits=4),
        "uniform, 4 bits, joint": palettized(sparse, True, mode="uniform", nbits=4),
        "k-means, 4 bits, joint": palettized(sparse, True, mode="kmeans", nbits=4),
        "linear uint4": quantized(dense, "uint4"),
    }
    for name, back in results.items():
        (fill,) = np.unique(back[weight == 0])
        zeros = float(np.mean(back == 0))
        error = float(np.sum((back @ x - weight @ x) ** 2) / np.sum((weight @ x) ** 2))
        print(f"{f'{part:.0%} pruned, {name}':<35}{np.mean(weight == 0):<14.3f}{zeros:<7.3f}{fill:<25.3g}{error:.3f}")
        if name.endswith("joint") or name.startswith("linear"):
            assert zeros >= part - 0.001, name
        else:
            assert zeros == 0 and fill != 0, f"{name} keeps zeros now"
PYTHON
