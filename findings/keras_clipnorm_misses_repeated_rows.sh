#!/usr/bin/env bash
# Keras with clipnorm=1 moves an embedding by 10, because the gradients of one row are clipped before they are summed.
#
# Guess: clipnorm=1 with SGD of learning rate 1 makes no step longer than 1 ("the gradient of each weight is
#   individually clipped so that its norm is no higher than this value"), in an embedding as in any other layer.
# Versions: keras 3.15.1, tensorflow 2.21.0 (tensorflow-cpu), numpy 2.4.6.
# What happens: TensorFlow gives the gradient of an embedding as IndexedSlices, one slice for each token. A token that
#   comes n times is n slices of one row, which are summed only when the step is made. Norm and clip see them
#   apart: n equal slices have a norm of sqrt(n) times one and sum to n times one, so the step is sqrt(n) times
#   too long, and up to n times with clipvalue. Where slices cancel the norm is too large, and a short gradient is
#   clipped. tf.clip_by_global_norm does the same.
# Who is hurt: embeddings of text, where a few frequent words fill a batch: clipping holds back least the rows
#   with the largest gradients. With global_clipnorm the wrong norm scales all layers. The same model written with
#   one_hot trains differently.
# Remedy: sum first: an optimizer whose apply() passes the gradients through tf.convert_to_tensor.
#
# Output seen (one token 100 times, SGD of learning rate 1; length of the step of the table of 10 x 4):
#                           Embedding   one_hot   Embedding, summed first
#   equal slices
#     global_clipnorm=1     10.00       1.00      1.00
#     clipnorm=1            10.00       1.00      1.00
#     clipvalue=1           200.00      2.00      2.00
#     no clipping           200.00      200.00    200.00
#   slices that cancel
#     global_clipnorm=1     0.20        0.40      0.40
#     clipnorm=1            0.20        0.40      0.40
#     clipvalue=1           0.40        0.40      0.40
#     no clipping           0.40        0.40      0.40
#   tf.clip_by_global_norm(100 equal slices, 1): norm 10.00

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 keras==3.15.1 numpy==2.4.6
KERAS_BACKEND=tensorflow CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np
import tensorflow as tf
from keras import layers

tf.get_logger().setLevel("ERROR")
TOKENS = np.full((1, 100), 3)


class SummedFirst(keras.optimizers.SGD):
    def apply(self, grads, trainable_variables=None):
        super().apply([tf.convert_to_tensor(one) for one in grads], trainable_variables)


def step(table, optimizer, slopes):
    """Length of the step of a table of zeros, where output i of the 100 has the gradient -slopes[i]."""
    model = keras.Sequential([keras.Input((100,), dtype="int32"), *table()])
    model.compile(optimizer, loss=lambda y, output: -keras.ops.sum(y * output))
    model.train_on_batch(TOKENS, np.broadcast_to(slopes[None, :, None], (1, 100, 4)))
    return float(np.linalg.norm(model.get_weights()[0]))


def embedding():
    return [layers.Embedding(10, 4, embeddings_initializer="zeros")]


def one_hot():
    dense = layers.Dense(4, use_bias=False, kernel_initializer="zeros")
    return [layers.Lambda(lambda x: keras.ops.one_hot(x, 10)), dense]


signs = np.where(np.arange(100) < 51, 1, -1)
print(f"{'':<24}Embedding   one_hot   Embedding, summed first")
for title, slopes in (("equal slices", np.ones(100)), ("slices that cancel", 0.1 * signs)):
    print(title)
    total = 2 * abs(slopes.sum())
    for clip in ("global_clipnorm", "clipnorm", "clipvalue", None):
        options = {clip: 1.0} if clip else {}
        name = f"{clip}=1" if clip else "no clipping"
        sparse = step(embedding, keras.optimizers.SGD(1.0, **options), slopes.astype("float32"))
        dense = step(one_hot, keras.optimizers.SGD(1.0, **options), slopes.astype("float32"))
        summed = step(embedding, SummedFirst(1.0, **options), slopes.astype("float32"))
        print(f"  {name:<22}{sparse:<12.2f}{dense:<10.2f}{summed:.2f}")
        bound = {"clipvalue": 2, None: np.inf}.get(clip, 1)
        assert np.allclose([dense, summed], min(total, bound), rtol=1e-4), name
        apart = np.linalg.norm(slopes) * 2
        scale = 1 / max(apart, 1) if clip and clip.endswith("norm") else 1
        assert np.isclose(sparse, total * scale, rtol=1e-4), f"{name} clips the sum of the slices now"
slices = tf.IndexedSlices(tf.ones((100, 4)), tf.constant(TOKENS[0]), tf.constant([10, 4]))
(clipped,), _ = tf.clip_by_global_norm([slices], 1.0)
norm = float(tf.norm(tf.convert_to_tensor(clipped)))
print(f"tf.clip_by_global_norm(100 equal slices, 1): norm {norm:.2f}")
assert norm > 9, "TensorFlow sums the slices first now"
PYTHON
