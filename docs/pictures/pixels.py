"""The picture of README.md: which pixels of MNIST the first layer of LeNet-300-100 still reads.

    JSPARSE_DATA=FOLDER python docs/pictures/pixels.py       # the four official files; 3 minutes

Each panel is one network trained with learned thresholds (`Threshold`, steered by `TargetDensity`),
10 epochs, one seed: how many of the 300 hidden units are connected to each pixel.
"""

import gzip
import itertools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import jsparse

DENSITIES, EPOCHS, BATCH, PARTS = (0.2, 0.05, 0.02), 10, 100, ("train", "t10k")


def read(name: str) -> np.ndarray:
    """A file of the data folder: uint8, images [n, 784] or labels [n]."""
    path = Path(os.environ["JSPARSE_DATA"]) / name
    packed = path.with_name(f"{name}.gz")
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    head = 16 if "images" in name else 8
    return np.frombuffer(content, np.uint8, offset=head).reshape(-1, 784 if head == 16 else 1)


def train(density: float, images: jax.Array, labels: jax.Array) -> nnx.Module:
    """LeNet-300-100 at a density."""
    rngs = nnx.Rngs(0)
    sizes = (784, 300, 100, 10)
    layers = [nnx.Linear(*pair, rngs=rngs) for pair in itertools.pairwise(sizes)]
    model = nnx.Sequential(layers[0], nnx.relu, layers[1], nnx.relu, layers[2])
    model = jsparse.sparsify(model, (".*/kernel", jsparse.Threshold(alpha=5e-4)))
    steps = EPOCHS * len(images) // BATCH
    control = jsparse.TargetDensity(density=density, steps=steps)
    optimizer = jsparse.Optimizer(model, optax.adam(1e-3), controls=(control,))

    @nnx.jit
    def step(model: nnx.Module, optimizer: jsparse.Optimizer, batch: jax.Array) -> None:
        def loss(model: nnx.Module) -> jax.Array:
            task = optax.softmax_cross_entropy_with_integer_labels
            return task(model(images[batch]), labels[batch]).mean() + jsparse.cost(model)

        optimizer.update(model, nnx.grad(loss)(model))

    for epoch in range(EPOCHS):
        order = jax.random.permutation(jax.random.key(epoch), len(images))
        for batch in order.reshape(-1, BATCH):
            step(model, optimizer, batch)
    return model


def main() -> None:
    """Train, draw, write pixels.png."""
    images, tests = (jnp.asarray(read(f"{p}-images-idx3-ubyte") / 255.0) for p in PARTS)
    labels, answers = (jnp.asarray(read(f"{p}-labels-idx1-ubyte"))[:, 0] for p in PARTS)
    models = [train(density, images, labels) for density in DENSITIES]
    links = [jsparse.masks(model)["layers/0/kernel"].sum(1).reshape(28, 28) for model in models]
    figure, axes = plt.subplots(1, len(models), figsize=(9, 3.2), layout="constrained")
    for axis, model, units in zip(axes, models, links, strict=True):
        accuracy = float((model(tests).argmax(-1) == answers).mean())
        density = jsparse.summary(model).density
        shown = axis.imshow(units, cmap="magma", vmin=0, vmax=links[0].max())
        axis.set_title(f"{density:.1%} of weights, {accuracy:.1%} accurate", fontsize=10)
        axis.set_axis_off()
        print(f"{density:.2%} {accuracy:.2%}")
    figure.colorbar(shown, ax=axes, label="hidden units that read the pixel")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110, facecolor="white")


if __name__ == "__main__":
    main()
