"""Many runs of one model in one compiled program: seeds and alphas side by side.

Every array has a leading axis of runs; an epoch is a few compiled loops inside a `vmap` over the
runs, with the data on the device. Each run shuffles the data with its own key. Where a layer has no
fast batched form on the CPU (convolutions, recurrences) the runs of the same program take turns.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jsparse
from experiments.datasets.augment import standardize
from experiments.datasets.sources import Images
from jsparse import Revise, Revised
from jsparse.optim import Control, task_gradients, threshold_parts

EVERY = 20
"""Steps between two measurements of the density."""
PARTS = 10
"""Of an epoch, between which progress is shown."""


class Runs(NamedTuple):
    """The state of all runs; each leaf is [runs, ...]."""

    params: Any  # what `tx` trains
    rest: Any  # all other variables: alphas, masks, batch statistics
    optimizer: Any
    memory: Array  # of the control, zeros where there is none
    step: Array  # train steps done
    key: Array  # shuffles the data and prepares them


def to_float(images: Array) -> Array:
    """uint8 pixels to [0, 1]."""
    return images.astype(jnp.float32) / 255.0


class Inputs(NamedTuple):
    """How uint8 images [n, ...] become the model's input; the key is new at each step."""

    train: Callable[[Array, Array], Array] = lambda key, images: to_float(images)
    test: Callable[[Array], Array] = to_float


PIXELS = Inputs()
"""Pixels become [0, 1]."""


def standardized(images: Images, augment: Callable[[Array, Array], Array] | None = None) -> Inputs:
    """Images by the mean and deviation of the training set, then augmented for training."""
    prepare = standardize(images.train_x)
    train = lambda key, x: augment(key, prepare(x)) if augment else prepare(x)
    return Inputs(train=train, test=prepare)


def shown(n: Any, before: Any) -> Any:
    """Whether densities are measured at step n of an epoch, from 0, with `before` steps before it.

    They are at every 20th, and in the run's first 100.
    """
    return (n % EVERY == 0) | (before + n < 100)


class Trace(NamedTuple):
    """The loss of the task, [runs, steps], and each layer's density, [runs, steps, layers].

    Densities are measured where `shown` is true, and repeated until the next such step.
    """

    loss: np.ndarray
    density: np.ndarray


def side_by_side(epoch: Callable) -> Callable:
    """All runs at once: `vmap` over their state, the data shared."""
    return jax.vmap(epoch, in_axes=(0, None, None))


def in_turn(epoch: Callable) -> Callable:
    """One run after the other, in the same compiled program."""
    return lambda runs, x, y: jax.lax.map(lambda run: epoch(run, x, y), runs)


def turns_on_cpu() -> Callable[[Callable], Callable]:
    """`in_turn` on a CPU, `side_by_side` elsewhere: for convolutions and recurrences."""
    return in_turn if jax.default_backend() == "cpu" else side_by_side


def over_devices(over: Callable[[Callable], Callable]) -> Callable[[Callable], Callable]:
    """The runs split over the devices, which do not communicate.

    Those of one device share it by `over`, `side_by_side` or `in_turn`. If the runs cannot be
    divided evenly, the last run is repeated on the remaining devices.
    """

    def split(epoch: Callable) -> Callable:
        def all_runs(runs: Any, x: Array, y: Array) -> Any:
            count = len(jax.tree.leaves(runs)[0])
            devices = jax.local_devices()[:count]
            mesh = jax.make_mesh((len(devices),), ("runs",), (AxisType.Auto,), devices=devices)
            own = np.minimum(np.arange(count + -count % len(devices)), count - 1)
            even = jax.tree.map(lambda leaf: leaf[own], runs)
            shared = jax.shard_map(
                over(epoch),
                mesh=mesh,
                in_specs=(P("runs"), P(), P()),
                out_specs=P("runs"),
                check_vma=False,  # a scan's state starts with constants, which are on all devices
            )
            return jax.tree.map(lambda leaf: leaf[:count], shared(even, x, y))

        return all_runs

    return split


class Sweep:
    """Trains runs that differ in seed and alpha.

    The model is in train mode for the loss and in eval mode for accuracy and density.

    Args:
      make: builds the model.
      tx: optax transform.
      batch: samples per step.
      over: how the epoch of one run becomes that of all: `side_by_side`, `in_turn`, `over_devices`.
      controls: at most one control, such as `jsparse.TargetDensity`.
      inputs: how images are prepared.
      wrt: which variables `tx` trains; (nnx.Param, jsparse.Mask) for `jsparse.revise`.
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        tx: optax.GradientTransformation,
        batch: int,
        over: Callable[[Callable], Callable],
        controls: Sequence[Control] = (),
        inputs: Inputs = PIXELS,
        wrt: Any = nnx.Param,
    ):
        self.make, self.tx, self.batch, self.controls = make, tx, batch, tuple(controls)
        self.inputs, self.wrt = inputs, wrt
        model = make(nnx.Rngs(0))
        self.graphdef, params, _ = nnx.split(model, wrt, ...)
        self.layers = list(jsparse.masks(model))
        self.sizes = np.array([mask.size for mask in jsparse.masks(model).values()])
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        sparse = f"{len(self.layers)} sparse layers" if self.layers else "dense"
        self.name = f"{type(model).__name__} ({count:,} parameters, {sparse})"
        self._planned = jax.jit(jax.vmap(self._plan, in_axes=(0, None)), static_argnums=1)
        self._part = jax.jit(over(self._one_part), donate_argnums=0)
        self._accuracy = jax.jit(over(lambda run, x, y: judge(self._tested(run), inputs, x, y)[0]))
        self._largest = jax.jit(jax.vmap(_largest))
        self._density = jax.jit(jax.vmap(lambda run: _densities(self._tested(run))))

    def start(self, seeds: Sequence[int], alphas: Sequence[float]) -> Runs:
        """Fresh runs, one for each pair of a seed and an alpha; [len(seeds)] both."""

        def one(key: Array, alpha: Array) -> Runs:
            model = self.make(nnx.Rngs(jax.random.fold_in(key, 0)))
            for part in threshold_parts(model).values():
                part.alpha[...] = jnp.full_like(part.alpha[...], alpha)
            memory = [control.init(model) for control in self.controls] or [jnp.zeros(())]
            _, params, rest = nnx.split(model, self.wrt, ...)
            optimizer = self.tx.init(params)
            if isinstance(optimizer, Revised):  # random mask changes differ between runs
                seed = jax.random.randint(jax.random.fold_in(key, 2), (), 0, 2**31 - 1)
                optimizer = optimizer._replace(seed=seed)
            key = jax.random.fold_in(key, 1)
            return Runs(params, rest, optimizer, memory[0], jnp.zeros((), int), key)

        keys = jax.vmap(jax.random.key)(jnp.array(seeds))
        return jax.jit(jax.vmap(one))(keys, jnp.array(alphas))

    def epoch(
        self, runs: Runs, x: Array, y: Array, tell: Callable[[int, int], Any] = lambda *_: None
    ) -> tuple[Runs, Trace]:
        """One pass over the data, uint8 images x [n, ...] and labels y [n]; `runs` is used up.

        After each of its parts, `tell` receives the steps done and those of the whole epoch.
        """
        count, steps = len(runs.step), len(x) // self.batch
        before = runs.step.min()
        runs, plan = self._planned(runs, len(x))
        trace = jnp.zeros((count, steps)), jnp.zeros((count, steps, len(self.layers)))
        at = (runs, plan, trace)
        ends = np.linspace(0, steps, min(PARTS, steps) + 1, dtype=int)
        for first, last in itertools.pairwise(ends):
            at = jax.block_until_ready(self._part(at, x, (y, before, first, last)))
            tell(int(last), steps)
        runs, _, measured = at
        return runs, Trace(*map(np.asarray, measured))

    def accuracy(self, runs: Runs, x: Array, y: Array) -> np.ndarray:
        """Fraction right of each run, [runs]."""
        return np.asarray(self._accuracy(runs, x, y))

    def largest(self, runs: Runs) -> np.ndarray:
        """Largest magnitude among the parameters of each run, [runs]; NaN where one is NaN."""
        return np.asarray(self._largest(runs.params))

    def model(self, runs: Runs, run: int) -> nnx.Module:
        """The model of one run, in eval mode, on one device."""
        return self._tested(jax.tree.map(lambda leaf: _on_one_device(leaf[run]), runs))

    def changed(self, runs: Runs, change: Callable[[nnx.Module, int], nnx.Module]) -> Runs:
        """The runs with `change(model, run)` for each model; optimizer and steps as they were."""
        models = [change(self.model(runs, run), run) for run in range(len(runs.step))]
        states = [nnx.split(model, self.wrt, ...)[1:] for model in models]
        params, rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        return runs._replace(params=params, rest=rest)

    def densities(self, runs: Runs) -> np.ndarray:
        """Density of each sparse layer now, [runs, layers]."""
        return np.asarray(self._density(runs))

    def total(self, densities: np.ndarray) -> np.ndarray:
        """Density over all layers: [..., layers] -> [...]; 1 for a dense model."""
        if not self.layers:
            return np.ones(densities.shape[:-1])
        return densities @ self.sizes / self.sizes.sum()

    def _trained(self, params: Any, rest: Any) -> nnx.Module:
        model = nnx.merge(self.graphdef, params, rest)
        model.train()
        return model

    def _tested(self, runs: Runs) -> nnx.Module:
        model = nnx.merge(self.graphdef, runs.params, runs.rest)
        model.eval()
        return model

    def _plan(self, runs: Runs, samples: int) -> tuple[Runs, tuple[Array, Array]]:
        """The key and the samples of each step of the next epoch."""
        key, shuffle = jax.random.split(runs.key)
        steps = samples // self.batch
        keys = jax.random.split(jax.random.fold_in(runs.key, 2), steps)  # 0 and 1 are those above
        order = jax.random.permutation(shuffle, samples)[: steps * self.batch]
        return runs._replace(key=key), (keys, order.reshape(steps, -1))

    def _one_part(self, at: tuple, x: Array, y: tuple[Array, Array, Array, Array]) -> tuple:
        """Steps first .. last of an epoch: y is (labels, steps before the epoch, first, last)."""
        runs, (keys, order), trace = at
        labels, before, first, last = y

        def step(n: Array, so_far: tuple) -> tuple:
            runs, (loss, density) = so_far
            index = order[n]
            images = self.inputs.train(keys[n], x[index])
            now = lambda: _densities(self._trained(runs.params, runs.rest))
            kept = jax.lax.cond(shown(n, before), now, lambda: density[n - 1])
            runs, task = self._one_step(runs, images, labels[index])
            return runs, (loss.at[n].set(task), density.at[n].set(kept))

        runs, trace = jax.lax.fori_loop(first, last, step, (runs, trace))
        return runs, (keys, order), trace

    def _one_step(self, runs: Runs, x: Array, y: Array) -> tuple[Runs, Array]:
        def loss_of(params: Any) -> tuple[Array, tuple]:
            rest = jax.tree.map(jnp.asarray, runs.rest)  # variables of this trace, to be written
            model = self._trained(params, rest)
            task = optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
            _, _, rest = nnx.split(model, self.wrt, ...)  # with new batch statistics
            return task + jsparse.cost(model), (rest, task)

        grads, (rest, task) = jax.grad(loss_of, has_aux=True)(runs.params)
        steered = self.controls and task_gradients(self._trained(runs.params, runs.rest), grads)
        params, optimizer = updated(self.tx, grads, runs.optimizer, runs.params)
        model = jsparse.advance(self._trained(params, rest))
        memory = runs.memory
        for control in self.controls:
            memory = control.apply(model, memory, runs.step, steered)
        _, params, rest = nnx.split(model, self.wrt, ...)
        return Runs(params, rest, optimizer, memory, runs.step + 1, runs.key), task


def judge(model: Any, inputs: Inputs, x: Array, y: Array) -> tuple[Array, Array]:
    """Fraction right and mean loss of a model on images [n, ...] and labels [n], both []."""
    model = jsparse.fold(model)
    size = next(n for n in range(min(500, len(x)), 0, -1) if len(x) % n == 0)

    def one(part: tuple[Array, Array]) -> tuple[Array, Array]:
        logits = model(inputs.test(part[0]))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, part[1])
        return (logits.argmax(-1) == part[1]).sum(), loss.sum()

    right, loss = jax.lax.map(one, (x.reshape(-1, size, *x.shape[1:]), y.reshape(-1, size)))
    return right.sum() / len(x), loss.sum() / len(x)


def updated(tx: Any, gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """The parameters and the state of a transform after a step."""
    if isinstance(tx, Revise):
        return tx.apply(gradients, state, params)
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def _densities(model: nnx.Module) -> Array:
    masks = jsparse.masks(model).values()
    return jnp.stack([mask.mean() for mask in masks]) if masks else jnp.zeros(0)


def _largest(params: Any) -> Array:
    return jnp.stack([abs(p).max(initial=0) for p in jax.tree.leaves(params)]).max()


def _on_one_device(leaf: Array) -> Array:
    many = len(leaf.sharding.device_set) > 1
    return jax.device_put(leaf, jax.local_devices()[0]) if many else leaf
