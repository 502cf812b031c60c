#!/usr/bin/env bash
# Dropout in Flax's attention removes the same entries for every head and every example of the batch.
#
# Guess: dropout draws for each attention weight by itself, as nnx.Dropout does for each activation and PyTorch's
#   attention for each head and example, so that a larger batch averages its noise away.
# Versions: flax 0.12.8, jax 0.10.2, numpy 2.4.6, on a CPU.
# What happens: broadcast_dropout is True by default in nnx.MultiHeadAttention and in dot_product_attention_weights
#   (flax/nnx/nn/attention.py; Linen has the same default): the mask has the shape [1, 1, queries, keys] and is used for
#   the whole batch. Equal examples give equal outputs in training, and the noise of a batch of 256 is that of a batch
#   of 1.
# Who is hurt: small models and fine-tuning with attention dropout: the noise of the gradient does not fall with the
#   batch, and steps tuned in PyTorch are noisier here; heads are dropped together, so they do not learn to do without
#   each other. Uncertainty by repeated passes with dropout is the same draw for all examples.
# Remedy: broadcast_dropout=False.
#
# Output seen (rate 0.5, copies of one example; spread of the batch's mean output over 200 calls):
#                             batch  different outputs  spread of the mean
#   default                   1      1                  0.414
#   default                   16     1                  0.414
#   default                   256    1                  0.414
#   broadcast_dropout=False   1      1                  0.459
#   broadcast_dropout=False   16     16                 0.117
#   broadcast_dropout=False   256    256                0.029

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.attention import dot_product_attention_weights

example = jax.random.normal(jax.random.key(0), (1, 6, 16))


def layer(**options):
    return nnx.MultiHeadAttention(4, 16, dropout_rate=0.5, decode=False, rngs=nnx.Rngs(0), **options)


@nnx.jit
def call(model, x):
    return model(x, deterministic=False)


found = {}
print("                          batch  different outputs  spread of the mean")
for name, options in (("default", {}), ("broadcast_dropout=False", {"broadcast_dropout": False})):
    for size in (1, 16, 256):
        model = layer(**options)
        batch = jnp.repeat(example, size, 0)
        outputs = [np.asarray(call(model, batch)) for _ in range(200)]
        different = len({row.tobytes() for row in outputs[0]})
        spread = float(np.std([output.mean(0) for output in outputs], axis=0).mean())
        found[name, size] = different, spread
        print(f"{name:<26}{size:<7}{different:<19}{spread:.3f}")

for size in (16, 256):
    assert found["default", size][0] == 1, "examples are dropped apart now"
    assert found["default", size][1] > 0.9 * found["default", 1][1]
    different, spread = found["broadcast_dropout=False", size]
    assert different == size and spread < 1.3 * found["broadcast_dropout=False", 1][1] / size**0.5

ones = jnp.ones((2, 6, 4, 8))
weights = dot_product_attention_weights(
    ones, ones, dropout_rng=jax.random.key(0), dropout_rate=0.5, deterministic=False
)
assert weights.shape == (2, 4, 6, 6) and (weights == weights[:1, :1]).all(), "heads are dropped apart now"
PYTHON
