#!/usr/bin/env bash
# jax.random.categorical over 50000 equal logits in bfloat16 never draws an index above 1000.
#
# Guess: logits in bfloat16 are rounded, so the probabilities are off by a few parts in a thousand, and the draws from
#   them are fair; equal logits, which bfloat16 holds exactly, give a uniform draw.
# Versions: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU.
# What happens: the index is the argmax of logits + Gumbel noise, and the noise has the dtype of the logits. It comes
#   from 128 uniform values in bfloat16 (1024 in float16), so among many classes hundreds share the largest noise, and
#   argmax takes the first. The noise ends at 4.8 in bfloat16 and 6.9 in float16, so a class of probability 0.0001
#   is never drawn from float16 logits. The probabilities of choice and bernoulli set the precision in
#   the same way: choice draws 128 of 1000 indices, and a mask asked for with density 0.001 has 7.7 times as many ones.
# Who is hurt: policies and language models that sample in half precision, and masks or routes drawn by Gumbel noise: no
#   draw is out of range, only most classes never come.
# Remedy: logits.astype(float32) before the draw, and p in float32 (or a Python number, which is taken as one).
#
# Output seen:
#                                                        float32    bfloat16   float16
#   categorical, 50000 equal logits: largest of 300      49369      774        4804
#   categorical, 1000 equal logits: mean of 300          491.7      134.9      428.5
#   categorical, draws of probability 0.0001 in 1e6      98         75         0
#   choice of 1000 with equal p: different ones in 1e5   1000       128        993
#   bernoulli, p = 0.001: density of 1e6                 0.000993   0.007713   0.001961

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax import random

key = random.key(0)
dtypes = jnp.float32, jnp.bfloat16, jnp.float16


def row(name, values, form):
    print(f"{name:<53}" + "".join(f"{value:<11{form}}" for value in values).rstrip())
    return values


def equal(dtype, classes):
    return random.categorical(key, jnp.zeros(classes, dtype), shape=(300,))


def rare(dtype):
    logits = jnp.log(jnp.array([0.9999, 0.0001])).astype(dtype)
    return int(random.categorical(key, logits, shape=(1_000_000,)).sum())


def chosen(dtype):
    return len(jnp.unique(random.choice(key, 1000, (100_000,), p=jnp.full(1000, 0.001, dtype))))


def density(dtype):
    return float(random.bernoulli(key, jnp.asarray(0.001, dtype), (1_000_000,)).mean())


print(" " * 53 + "".join(f"{jnp.dtype(dtype).name:<11}" for dtype in dtypes).rstrip())
largest = row(
    "categorical, 50000 equal logits: largest of 300", [int(equal(dtype, 50000).max()) for dtype in dtypes], "d"
)
mean = row("categorical, 1000 equal logits: mean of 300", [float(equal(d, 1000).mean()) for d in dtypes], ".1f")
few = row("categorical, draws of probability 0.0001 in 1e6", [rare(dtype) for dtype in dtypes], "d")
kinds = row("choice of 1000 with equal p: different ones in 1e5", [chosen(dtype) for dtype in dtypes], "d")
ones = row("bernoulli, p = 0.001: density of 1e6", [density(dtype) for dtype in dtypes], ".6f")

assert largest[0] > 45000 and mean[0] > 450 and 50 < few[0] < 150 and kinds[0] == 1000 and ones[0] < 0.0012
assert largest[1] < 1500 and largest[2] < 10000, "draws reach all classes now"
assert mean[1] < 200, "draws in bfloat16 are uniform now"
assert few[2] == 0, "rare classes are drawn from float16 logits now"
assert kinds[1] == 128, "choice draws all indices now"
assert ones[1] > 0.005 and ones[2] > 0.0015, "bernoulli is exact in half precision now"
PYTHON
