"""One model trained on all devices of all processes: the batch is split, the model replicated."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jsparse
from experiments.datasets.stream import Batch

TOP = (1, 5)
"""An image counts as right if its class is among this many of the likeliest."""


class Trained(nnx.Module):
    """A model and its optimizer."""

    def __init__(self, model: nnx.Module, optimizer: nnx.Optimizer):
        self.model, self.optimizer = model, optimizer


class Accuracy(NamedTuple):
    """Fractions right, of the class alone and of the five likeliest."""

    top1: float
    top5: float


class DataParallel:
    """Trains a model whose batch is split over all devices.

    The compiler adds the sums over devices. So the loss, its gradients and the statistics of batch
    normalization are those of the whole batch, whatever the number of devices.

    Args:
      make: builds model and optimizer from a seed.
      prepare: uint8 images [n, h, w, 3] to what the model takes.
    """

    def __init__(self, make: Callable[[int], Trained], prepare: Callable[[Array], Array]):
        self.prepare = prepare
        devices = jax.device_count()
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        self._whole, self._split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        shape = nnx.eval_shape(lambda: make(0))
        self.graphdef = nnx.split(shape)[0]
        masks = nnx.eval_shape(jsparse.masks, shape.model)
        self.layers = {name: mask.size for name, mask in masks.items()}
        self._start = jax.jit(
            lambda seed: nnx.state(make(seed)), static_argnums=0, out_shardings=self._whole
        )
        self._step = jax.jit(self._one_step, donate_argnums=0, out_shardings=self._whole)
        self._right = jax.jit(self._count_right, out_shardings=self._whole)
        self._kept = jax.jit(self._count_kept, out_shardings=self._whole)

    def start(self, seed: int) -> Any:
        """All variables of a new model and optimizer, on all devices."""
        return self._start(seed)

    def step(self, state: Any, batch: Batch) -> tuple[Any, Array]:
        """The state after a step, and the loss before it, []; `state` is used up."""
        return self._step(state, *self._put(batch))

    def accuracy(self, state: Any, batches: Iterable[Batch]) -> Accuracy:
        """Of all images whose label is not -1."""
        counts = [self._right(state, *self._put(batch)) for batch in batches]
        total, *right = np.sum(np.asarray(counts, np.int64), axis=0)
        return Accuracy(*(float(one / total) for one in right))

    def densities(self, state: Any) -> dict[str, float]:
        """Density of each sparse layer."""
        return dict(zip(self.layers, np.asarray(self._kept(state)).tolist(), strict=True))

    def total(self, densities: dict[str, float]) -> float:
        """Density of all sparse layers together; 1 where there are none."""
        sizes = sum(self.layers.values())
        return sum(densities[n] * s for n, s in self.layers.items()) / sizes if sizes else 1.0

    def model(self, state: Any) -> nnx.Module:
        """The model in eval mode, on a device of this process."""
        here = jax.tree.map(lambda leaf: leaf.addressable_data(0), state)
        model = nnx.merge(self.graphdef, here).model
        model.eval()
        return model

    def _put(self, batch: Batch) -> tuple[Array, Array]:
        put = jax.make_array_from_process_local_data
        return put(self._split, batch.images), put(self._split, batch.labels)

    def _one_step(self, state: Any, images: Array, labels: Array) -> tuple[Any, Array]:
        both = nnx.merge(self.graphdef, state)
        both.model.train()

        def loss_of(model: nnx.Module) -> tuple[Array, Array]:
            logits = model(self.prepare(images))
            task = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return task + jsparse.cost(model), task

        grads, task = nnx.grad(loss_of, has_aux=True)(both.model)
        both.optimizer.update(both.model, grads)
        return nnx.state(both), task

    def _count_right(self, state: Any, images: Array, labels: Array) -> Array:
        """[3]: images, and how many are right for each of TOP."""
        model = nnx.merge(self.graphdef, state).model
        model.eval()
        logits = jsparse.fold(model)(self.prepare(images))
        ahead = likelier(logits, jnp.maximum(labels, 0))
        there = labels >= 0
        return jnp.stack([there.sum(), *((there & (ahead < top)).sum() for top in TOP)])

    def _count_kept(self, state: Any) -> Array:
        model = nnx.merge(self.graphdef, state).model
        model.eval()
        masks = jsparse.masks(model).values()
        return jnp.stack([mask.mean() for mask in masks]) if masks else jnp.zeros(0)


def likelier(logits: Array, labels: Array) -> Array:
    """How many classes come before the label's, [n], by logits [n, classes].

    Of equal ones the first counts as likelier, and nan as likelier than any, so a network that
    gives all classes the same logit, or nan, does not count as right.
    """
    classes = jnp.arange(logits.shape[1])[None, :]
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    ahead = jnp.where(classes < labels[:, None], ~(logits < own), ~(logits <= own))
    return jnp.sum(ahead, axis=1)
