"""Networks of several seeds as one model, trained in one program and pruned in the same rounds.

What is pruned in rounds is given a `Seeds`; `per_seed` lets the weights of each seed compete among
themselves, and `SeedTraining` trains all of them with one compiled epoch, whatever the method.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from experiments.common.sweep import PIXELS, judge, side_by_side, to_float
from experiments.datasets.sources import Images
from jsparse.prune._choice import Selector


class Seeds(nnx.Module):
    """Networks side by side: seed0, seed1, ...; they share nothing."""

    def __init__(self, networks: Sequence[nnx.Module]):
        self.count = len(networks)
        for n, network in enumerate(networks):
            setattr(self, f"seed{n}", network)


def build(make: Callable[[nnx.Rngs], nnx.Module], seeds: int) -> Seeds:
    """A network for each seed: 1, 2, ..."""
    return Seeds([make(nnx.Rngs(n + 1)) for n in range(seeds)])


def networks(model: Seeds) -> list[nnx.Module]:
    """Those of a `Seeds`, in order."""
    return [getattr(model, f"seed{n}") for n in range(model.count)]


@dataclasses.dataclass(frozen=True)
class per_seed:
    """A choice, such as `jsparse.prune.globally`, made separately in each network."""

    choose: Selector

    def __call__(
        self, scores: Mapping[str, Array], density: float, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Array]:
        kept: dict[str, Array] = {}
        for seed in dict.fromkeys(name.split("/")[0] for name in scores):
            mine = {name: s for name, s in scores.items() if name.split("/")[0] == seed}
            kept |= self.choose(mine, density, {name: shapes[name] for name in mine})
        return {name: kept[name] for name in scores}


class SeedTraining:
    """Trains a `Seeds` by plain SGD, as the rounds of a pruning method need it.

    The networks have no batch statistics. One program serves all methods and rounds: learning rates
    and orders of samples are its inputs. The incomplete last batch is dropped.
    """

    def __init__(
        self,
        images: Images,
        batch: int,
        over: Callable[[Callable], Callable] = side_by_side,
    ):
        self.batch = batch
        self.x, self.y = jnp.asarray(images.train_x), jnp.asarray(images.train_y)
        self.steps = len(self.x) // batch
        self.graphdef: Any = None
        self._epoch = jax.jit(over(self._one_epoch))
        self._judge = jax.jit(over(self._one_judged))

    def start(self, model: Seeds) -> tuple[Any, Any]:
        """The variables of all seeds, each leaf [seeds, ...]: what is trained, and the rest."""
        parts = [nnx.split(network, nnx.Param, ...) for network in networks(model)]
        self.graphdef = parts[0][0]
        stack = lambda n: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p[n] for p in parts))
        return stack(1), stack(2)

    def shuffled(self, seeds: int, number: int, epoch: int) -> Array:
        """Samples of each step of an epoch, new for each seed, round and epoch."""

        def one(seed: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(number), epoch), seed)
            order = jax.random.permutation(key, len(self.x))
            return order[: self.steps * self.batch].reshape(self.steps, self.batch)

        return jax.vmap(one)(jnp.arange(seeds))

    def in_order(self, seeds: int) -> Array:
        """Samples of each step, the same in every epoch."""
        order = jnp.arange(self.steps * self.batch).reshape(1, self.steps, self.batch)
        return jnp.broadcast_to(order, (seeds, self.steps, self.batch))

    def epoch(self, params: Any, rest: Any, rates: Array, order: Array) -> tuple[Any, np.ndarray]:
        """One pass: learning rates [seeds, steps], order [seeds, steps, batch]; and mean losses."""
        params, losses = self._epoch((params, rest, rates, order), self.x, self.y)
        return params, np.asarray(losses)

    def judge(self, params: Any, rest: Any, x: Array, y: Array) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and mean loss of each seed."""
        right, loss = self._judge((params, rest), jnp.asarray(x), jnp.asarray(y))
        return np.asarray(right), np.asarray(loss)

    def put(self, model: Seeds, params: Any) -> Seeds:
        """The model with what was trained, in place."""
        for n, network in enumerate(networks(model)):
            nnx.update(network, jax.tree.map(lambda leaf, n=n: leaf[n], params))
        return model

    def accuracy(self, model: Seeds, x: Any, y: Any) -> list[float]:
        """Fraction right of each seed."""
        return self.judge(*self.start(model), x, y)[0].tolist()

    def _one_epoch(self, run: tuple, x: Array, y: Array) -> tuple[Any, Array]:
        params, rest, rates, order = run

        def step(params: Any, at: tuple[Array, Array]) -> tuple[Any, Array]:
            rate, index = at

            def loss_of(params: Any) -> Array:
                logits = nnx.merge(self.graphdef, params, rest)(to_float(x[index]))
                return optax.softmax_cross_entropy_with_integer_labels(logits, y[index]).mean()

            loss, grads = jax.value_and_grad(loss_of)(params)
            return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

        params, losses = jax.lax.scan(step, params, (rates, order))
        return params, losses.mean()

    def _one_judged(self, run: tuple, x: Array, y: Array) -> tuple[Array, Array]:
        return judge(nnx.merge(self.graphdef, *run), PIXELS, x, y)
