#!/usr/bin/env bash
# A query that may attend to nothing attends to everything in JAX and Flax; in PyTorch it gives 0, or NaN.
#
# Guess: a row of a boolean mask without a True gives 0, as in PyTorch, or at least NaN, which one would see; in no
#   case does a value that the mask forbids reach the output.
# Versions: jax 0.10.2, flax 0.12.8, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: jax.nn.dot_product_attention (default and "xla" implementation) and flax.nnx put one large negative
#   number in the place of forbidden logits. If all of a row are forbidden they are equal, and the softmax is
#   uniform: the output is the mean of all values, and gradients flow into them. F.scaled_dot_product_attention gives
#   0; nn.MultiheadAttention gives 0 with need_weights=False and NaN with True, its default.
# Who is hurt: packed or left-padded sequences, where the padding leaks, and random or learned sparse masks, where an
#   empty row looks like a query with all keys; ports between the two frameworks.
# Remedy: jnp.where(mask.any(-1), output, 0) with the axes of the output, after the attention.
#
# Output seen (4 keys with values 1, 2, 4, 9; queries that may see the keys {0}, {} and {0, 1}; all logits equal):
#                                           {0}    {}     {0, 1}   gradient of the second by the values
#   jax.nn.dot_product_attention            1.00   4.00   1.50     [0.25, 0.25, 0.25, 0.25]
#   flax.nnx.dot_product_attention          1.00   4.00   1.50     [0.25, 0.25, 0.25, 0.25]
#   F.scaled_dot_product_attention          1.00   0.00   1.50     [0.0, 0.0, 0.0, 0.0]
#   MultiheadAttention, need_weights=False  1.00   0.00   1.50     [0.0, 0.0, 0.0, 0.0]
#   MultiheadAttention, need_weights=True   1.00   nan    1.50     [nan, nan, nan, nan]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 numpy==2.4.6 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 orbax-checkpoint==0.12.8
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.nn import functional

values = np.array([1, 2, 4, 9], np.float32)
mask = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], bool)


def in_jax(attention):
    query, key = jnp.zeros((1, 3, 1, 1)), jnp.zeros((1, 4, 1, 1))

    def answer(v):
        return attention(query, key, v[None, :, None, None], mask=jnp.asarray(mask)[None, None])[0, :, 0, 0]

    return answer(jnp.asarray(values)), jax.jacobian(answer)(jnp.asarray(values))[1]


def in_torch(attention):
    query, key, v = torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 4, 1), torch.tensor(values)

    def answer(v):
        return attention(query, key, v[None, None, :, None])[0, 0, :, 0]

    return answer(v), torch.autograd.functional.jacobian(answer, v)[1]


def module(need_weights):
    layer = torch.nn.MultiheadAttention(1, 1, bias=False, batch_first=True)
    for p in layer.parameters():
        torch.nn.init.ones_(p)

    def attention(query, key, value):
        forbidden = torch.tensor(~mask)
        return layer(query[0], key[0], value[0], attn_mask=forbidden, need_weights=need_weights)[0][None]

    return attention


answers = {
    "jax.nn.dot_product_attention": in_jax(jax.nn.dot_product_attention),
    "flax.nnx.dot_product_attention": in_jax(nnx.dot_product_attention),
    "F.scaled_dot_product_attention": in_torch(
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, attn_mask=torch.tensor(mask))
    ),
    "MultiheadAttention, need_weights=False": in_torch(module(False)),
    "MultiheadAttention, need_weights=True": in_torch(module(True)),
}
print(f"{'':<40}{'{0}':<7}{'{}':<7}{'{0, 1}':<9}gradient of the second by the values")
for name, (output, slope) in answers.items():
    output, slope = np.asarray(output.tolist()), np.asarray(slope.tolist())
    print(f"{name:<40}{output[0]:<7.2f}{output[1]:<7.2f}{output[2]:<9.2f}{slope.tolist()}")
    assert output[0] == 1 and output[2] == 1.5
    answers[name] = output[1], slope
for name in ("jax.nn.dot_product_attention", "flax.nnx.dot_product_attention"):
    assert answers[name][0] == 4 and (answers[name][1] == 0.25).all(), f"{name} gives something else now"
for name in ("F.scaled_dot_product_attention", "MultiheadAttention, need_weights=False"):
    assert answers[name][0] == 0 and (answers[name][1] == 0).all()
assert np.isnan(answers["MultiheadAttention, need_weights=True"][0])
PYTHON
