#!/usr/bin/env bash
# In JAX the label -1 is the first class, the last class or none, by the function that gets it.
#
# Guess: -1, the usual mark of padding and of unlabeled examples, is ignored everywhere or wraps around everywhere, as
#   an index of NumPy does; in any case softmax_cross_entropy_with_integer_labels does what softmax_cross_entropy of
#   one_hot does.
# Versions: optax 0.2.8, flax 0.12.8, jax 0.10.2, numpy 2.4.6, on a CPU.
# What happens: one_hot compares, so -1 is no class and its loss 0; segment_sum drops it too. The loss of integer
#   labels, nnx.Embed and take read by index, where -1 is the last class, which it trains. bincount clips, so -1
#   counts as class 0. One past the end, and the -100 that PyTorch's loss ignores, are none, an end, or NaN.
# Who is hurt: padded sequences and partly labeled data when a loss is changed from one-hot to integer labels: the mean
#   stays finite, and the last class is learned from padding. Class weights from bincount favor class 0.
# Remedy: keep = labels >= 0, and jnp.where(keep, loss, 0) of jnp.where(keep, labels, 0).
#
# Output seen (3 classes with values or logits 1, 2, 4; what each function gives for the label):
#                               0          2          -1         3          -100
#   one_hot(label) @ values     1          4          0          0          0
#   segment_sum into 3 counts   1 0 0      0 0 1      0 0 0      0 0 0      0 0 0
#   bincount(label, length=3)   1 0 0      0 0 1      1 0 0      0 0 0      1 0 0
#   values[label]               1          4          4          4          1
#   jnp.take(values, label)     1          4          4          nan        nan
#   nnx.Embed                   1          4          4          nan        nan
#   cross entropy of one_hot    3.17       0.17       0          0          0
#   cross entropy of integers   3.17       0.17       0.17       nan        nan

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
    ml_dtypes==0.6.0 optax==0.2.8 orbax-checkpoint==0.12.8
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

values = jnp.array([1.0, 2.0, 4.0])
embed = nnx.Embed(3, 1, rngs=nnx.Rngs(0))
embed.embedding[...] = values[:, None]


def softmax_of_one_hot(i):
    return optax.softmax_cross_entropy(values[None], jax.nn.one_hot(i, 3))


def softmax_of_integers(i):
    return optax.softmax_cross_entropy_with_integer_labels(values[None], i)


ways = {
    "one_hot(label) @ values": lambda i: jax.nn.one_hot(i, 3) @ values,
    "segment_sum into 3 counts": lambda i: jax.ops.segment_sum(jnp.ones(1), i, 3),
    "bincount(label, length=3)": lambda i: jnp.bincount(i, length=3),
    "values[label]": lambda i: values[i],
    "jnp.take(values, label)": lambda i: jnp.take(values, i),
    "nnx.Embed": lambda i: embed(i)[:, 0],
    "cross entropy of one_hot": softmax_of_one_hot,
    "cross entropy of integers": softmax_of_integers,
}
labels = (0, 2, -1, 3, -100)
print(f"{'':<28}" + "".join(f"{label:<11}" for label in labels).rstrip())
found = {}
for name, way in ways.items():
    row = []
    for label in labels:
        answer = np.asarray(way(jnp.array([label])), np.float64)
        found[name, label] = np.abs(answer).round(2).tolist()
        row.append(" ".join(f"{x:g}" for x in found[name, label]))
    print(f"{name:<28}" + "".join(f"{x:<11}" for x in row).rstrip())

none, last = "cross entropy of one_hot", "cross entropy of integers"
assert found[none, 2] == found[last, 2] and found[none, 0] == found[last, 0]
assert found[none, -1] == [0] and found[last, -1] == found[last, 2] != [0], "both treat -1 alike now"
assert found["segment_sum into 3 counts", -1] == [0, 0, 0]
assert found["bincount(label, length=3)", -1] == [1, 0, 0]
for name in ("values[label]", "jnp.take(values, label)", "nnx.Embed"):
    assert found[name, -1] == [4]
assert found[none, -100] == [0] and np.isnan(found[last, -100]).all()
PYTHON
