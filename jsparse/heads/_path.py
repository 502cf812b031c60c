"""The path of heads, from no weights to nearly all, and choosing one of them.

1. Features are standardized over the training rows; constant ones are left out, with weight 0.
2. The first lambda is the least at which all weights are 0: the largest size of the gradient there,
   divided by the mix. The others decrease from it on a logarithmic scale.
3. Each head starts from the previous one. FISTA solves it; for features that are read a block at a
   time, SAGA gets close first.
4. Each head is solved to a tolerance of its optimality conditions (KKT), which is measured.

Numbers: `experiments/debug_head.py`; speed: `experiments/bench/heads.py`.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse._values import check_flag, check_in, check_key, check_whole
from jsparse.heads._fista import compiled_fista, fista, python_loop
from jsparse.heads._given import check_features, held_out, read_columns
from jsparse.heads._point import Point, words_of
from jsparse.heads._problem import Fit, Problem, identity, norms
from jsparse.heads._rows import ROUNDING, Blockwise, Rows, moments, read_rows
from jsparse.heads._saga import STEP, saga
from jsparse.report._table import cells, table

MOST = 3000
"""Passes over the data for one head, of FISTA and of SAGA each."""
SHOWN = 25
"""Lines of a printed path."""


@dataclass(frozen=True, eq=False)
class Path:
    """Heads by decreasing lambda, usually each with more weights than the previous one.

    Attributes:
      points: the heads, the first without weights.
    """

    points: tuple[Point, ...]

    def choose(self, drop: float = 0.01) -> Point:
        """The head with the fewest weights whose accuracy is within `drop` of the best.

        Args:
          drop: of the accuracy, as a fraction.

        Raises:
          ValueError: it is not in [0, 1].
        """
        check_in("[0, 1]", drop=drop)
        good = max(point.accuracy for point in self.points) - drop
        return min((p for p in self.points if p.accuracy >= good), key=lambda point: point.kept)

    def at(self, features_per_class: float = 20) -> Point:
        """The head with the most weights, but at most a given number per class on average.

        Args:
          features_per_class: weights that are not 0, divided by the number of outputs.

        Raises:
          ValueError: it is not a number of 0 or more.
        """
        check_in("[0, inf)", features_per_class=features_per_class)
        few = [p for p in self.points if p.features_per_class <= features_per_class]
        return max(few, key=lambda point: point.kept) if few else self.points[0]

    def __str__(self) -> str:
        every = -(-len(self.points) // SHOWN)
        numbers = lambda p: (p.lam, p.features_per_class, p.kept, p.accuracy, p.optimality)
        rows = [cells(".3g .1f , .4f .2g", *numbers(p)) for p in self.points[::-every][::-1]]
        accuracy, output = words_of(self.points[0])
        return table(("lambda", f"per {output}", "kept", accuracy, "optimality"), rows, (), 0)


def elastic_net_path(
    features: Any,
    targets: Any,
    *,
    mix: float = 0.99,
    points: int = 100,
    smallest: float = 1e-3,
    grouped: bool = False,
    validation: float = 0.1,
    tolerance: float = 0.01,
    batch: int = 1024,
    key: Array,
) -> Path:
    """Sparse linear heads on the features of a frozen model, from none of the weights to most.

        min over W, b of  mean loss(x W + b, y) + lambda ((1 - a) / 2 |W|^2 + a sum |W_jk|)

    The features x are standardized. The loss is the cross-entropy of the softmax for whole-number
    labels and half the squared error, summed over the outputs, for floats. The last sum is over
    single weights, or, grouped, over the 2-norms of each feature's weights: then a feature is used
    by all classes or by none. The bias b is not penalized.

    An array in memory (jax or numpy) is put on the device. Anything else with a shape and rows by
    slices, such as a `np.memmap` or a dataset of h5py, is read a block of rows at a time, so it
    need not fit in memory; four arrays [rows, outputs] must. Rows in random order, as in training,
    need the fewest passes.

    Args:
      features: of the frozen model, [rows, features].
      targets: labels 0, 1, ..., whole numbers [rows]; or floats, [rows] or [rows, outputs].
      mix: a, in (0, 1]: how much of the penalty makes zeros. The rest spreads the weight over
        similar features.
      points: number of heads.
      smallest: the last lambda as a fraction of the first; with 1 point it is not used.
      grouped: whether a feature's weights are dropped together.
      validation: fraction of the rows to hold out, as evenly over the classes as possible;
        `accuracy` is measured on them. With 0 it is measured on all rows.
      tolerance: of the violation of the optimality conditions, in units of lambda.
      batch: rows of a block.
      key: for the rows held out and the order of blocks.

    Returns:
      The heads.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: sizes that do not fit, values that are NaN or infinite, labels that miss a class,
        targets or features that do not vary or are not correlated, no row to hold out, or a number
        outside its interval.

    Warns:
      UserWarning: heads that did not reach the tolerance; `Point.optimality` says how far they are.

    Example:
      >>> import jax
      >>> features = jax.random.normal(jax.random.key(0), (200, 8))
      >>> labels = (features[:, 2] > 0).astype(int)  # one feature decides
      >>> path = elastic_net_path(features, labels, points=10, key=jax.random.key(1))
      >>> path.choose(0.02).weight.any(axis=1).nonzero()[0].tolist()
      [2]

    Reference: Wong, Santurkar and Madry, "Leveraging Sparse Linear Layers for Debuggable Deep
    Networks", ICML 2021, section 2; Friedman, Hastie and Tibshirani, "Regularization Paths for
    Generalized Linear Models via Coordinate Descent", J. Stat. Software 2010, sections 2 and 4.
    """
    check_in("(0, 1]", mix=mix)
    check_in("(0, 1)", smallest=smallest)
    check_in("[0, 1)", validation=validation)
    check_in("(0, inf)", tolerance=tolerance)
    check_whole(points=points, batch=batch)
    check_flag(grouped=grouped)
    check_key(key=key)
    check_features(features)
    wanted, labels = read_columns(targets, features.shape[0])
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)))
    held = held_out(wanted, labels, validation, rng)
    mean, std = moments(features, ~held, batch)  # 1
    dtype = jax.dtypes.canonicalize_dtype(np.promote_types(features.dtype, np.float32))
    share = jnp.asarray(~held / (~held).sum(), dtype)
    size, loss = (norms if grouped else jnp.abs), (jax.nn.softmax if labels else identity)
    with np.errstate(over="ignore"):  # `_largest` refuses what is out of range
        problem = Problem(jnp.asarray(wanted, dtype), share, jnp.asarray(mix, dtype), loss, size)
        rows = read_rows(features, mean, std, batch, dtype)
    empty = _empty(rows, problem, labels, features.shape[1])
    largest = _largest(problem, empty, wanted[~held], std)  # 2
    solved = partial(Point, mean=mean, std=std, regression=not labels)
    lams, found = np.geomspace(largest, smallest * largest, points), []
    for lam, fit in zip(lams, _fits(rows, problem, empty, lams, tolerance, rng), strict=True):  # 3
        weight, outputs = np.asarray(fit.weight), np.asarray(fit.outputs)
        found.append(
            solved(
                weight=weight,
                bias=np.asarray(fit.bias),
                lam=float(lam),
                kept=int(np.count_nonzero(weight)),
                accuracy=_accuracy(outputs, wanted, held, labels),
                optimality=float(fit.optimality),
            )
        )
    _warn(found, tolerance)
    return Path(tuple(found))


def _fits(
    rows: Rows,
    problem: Problem,
    fit: Fit,
    lams: np.ndarray,
    tolerance: float,
    rng: np.random.Generator,
) -> Iterator[Fit]:
    """The solution at each lambda (4)."""
    step = STEP
    for lam in jnp.asarray(lams, fit.weight.dtype):
        if isinstance(rows, Blockwise):
            fit, step = saga(rows, problem, fit, lam, step, (tolerance, MOST), rng)
            fit = fista(rows, problem, fit, lam, tolerance, MOST, python_loop)
        else:
            fit = compiled_fista(rows, problem, fit, lam, tolerance, MOST, jax.lax.while_loop)
        yield fit


def _empty(rows: Rows, problem: Problem, labels: bool, features: int) -> Fit:
    """The head without weights: the bias alone."""
    average = problem.share @ problem.targets
    bias = jnp.log(average) if labels else average
    outputs = jnp.broadcast_to(bias, problem.targets.shape)
    weight = jnp.zeros((features, len(bias)), bias.dtype)
    slope = rows.backward(problem.residual(outputs))
    one = jnp.asarray(STEP, bias.dtype)
    return Fit(weight, bias, outputs, slope, one, jnp.zeros((), jnp.int32), jnp.zeros_like(one))


def _largest(problem: Problem, empty: Fit, wanted: np.ndarray, std: np.ndarray) -> float:
    """The first lambda, given the targets of the training rows and the features' deviation."""
    largest = float(problem.largest(empty.slope))
    residual = problem.residual(empty.outputs)
    rows = jnp.count_nonzero(problem.share)
    spread = jnp.sqrt(rows.astype(residual.dtype) * (residual**2).sum())  # of the targets
    if not np.isfinite(largest):
        raise ValueError(
            f"features and targets must have a size that {empty.weight.dtype} can hold; got a "
            f"gradient of {largest}; divide them by their deviation first"
        )
    if largest <= ROUNDING * jnp.finfo(residual.dtype).eps * spread:
        _check_related(wanted, std)
        raise ValueError(
            "features must be correlated with the targets; got training rows in which no feature "
            "is correlated with any of them, so no head has a weight"
        )
    return largest


def _accuracy(outputs: np.ndarray, wanted: np.ndarray, held: np.ndarray, labels: bool) -> float:
    """The fraction of labels that are right, or R^2, on the rows held out; on all if none are."""
    train = wanted[~held].mean(axis=0)
    if held.any():
        outputs, wanted = outputs[held], wanted[held]
    if labels:
        return float((outputs.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    return float(1 - ((outputs - wanted) ** 2).sum() / ((wanted - train) ** 2).sum())


def _check_related(wanted: np.ndarray, std: np.ndarray) -> None:
    """Refuse training rows from which nothing can be learned."""
    if not np.ptp(wanted, axis=0).any():
        raise ValueError(f"targets must vary; got {wanted[0]} in each training row")
    if not std.any():
        raise ValueError(f"features must vary; got {len(std)} that are each constant")


def _warn(points: Sequence[Point], tolerance: float) -> None:
    """Warn of heads that are not solved."""
    far = [point for point in points if not point.optimality <= tolerance]
    if far:
        worst = max(point.optimality for point in far)
        warnings.warn(
            f"{len(far)} of {len(points)} heads were not solved to a tolerance of {tolerance:g} in "
            f"{MOST} passes; the violation is up to {worst:.2g} lambda, see Point.optimality. Pass "
            "a larger tolerance or a larger `smallest`",
            stacklevel=3,
        )
