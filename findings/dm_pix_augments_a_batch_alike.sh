#!/usr/bin/env bash
# dm_pix.random_flip_left_right of a batch flips all images or none, and other augmentations draw once too.
#
# Guess: the functions are those of tf.image for JAX and take leading axes (...HWC), so a batch is augmented image by
#   image, as tf.image.random_flip_left_right does with four axes.
# Versions: dm-pix 0.4.5, jax 0.10.2, chex 0.1.92, NumPy 2.4.6.
# What happens: one number is drawn from the key and holds for every image: one coin for the flip, one delta for
#   brightness, one offset for all crops. The documentation calls the argument an image, of shape ...HWC or ...CHW.
# Who is hurt: whoever augments in the training step, after batching: the shape and the average over steps are
#   right, but within a batch there is no variety, and batch statistics and gradients swing from step to step.
# Remedy: jax.vmap(augment)(jax.random.split(key, len(images)), images).
#
# Output seen (64 equal images, 20 keys):
#   flipped images in a batch: [0, 64], with vmap: 29 to 42
#   brightness: 1 value in a batch, with vmap 64
#   crops: 1 offset in a batch

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dm-pix==0.4.5 jax==0.10.2 chex==0.1.92 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import functools

import dm_pix
import jax
import numpy as np

images = np.tile(np.linspace(0, 0.5, 4 * 4 * 3, dtype=np.float32).reshape(4, 4, 3), (64, 1, 1, 1))


def flipped(augment, key):
    result = np.asarray(augment(key, images))
    return int((result != images).any(axis=(1, 2, 3)).sum())


def each(augment):
    return jax.jit(lambda key, x: jax.vmap(augment)(jax.random.split(key, len(x)), x))


keys = jax.random.split(jax.random.key(0), 20)
whole = sorted({flipped(dm_pix.random_flip_left_right, key) for key in keys})
single = sorted({flipped(each(dm_pix.random_flip_left_right), key) for key in keys})
print(f"flipped images in a batch: {whole}, with vmap: {single[0]} to {single[-1]}")
brighten = functools.partial(dm_pix.random_brightness, max_delta=0.3)
values = [len(np.unique(np.asarray(run(keys[0], images))[:, 0, 0, 0])) for run in (brighten, each(brighten))]
print(f"brightness: {values[0]} value in a batch, with vmap {values[1]}")
crops = np.asarray(dm_pix.random_crop(keys[0], images, (64, 2, 2, 3)))
offsets = len(np.unique(crops[:, 0, 0, 0]))
print(f"crops: {offsets} offset in a batch")
assert whole == [0, 64] and values[0] == offsets == 1, "images are augmented one by one now"
assert 0 < single[0] and single[-1] < 64 and values[1] > 32, "it is different now"
PYTHON
