"""Curves over steps.

A curve is a frozen, callable dataclass, so equal curves compare equal, just like rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse._values import check_in, check_is, is_number, known, shown

Schedule = Callable[[Array], Array]


@dataclass(frozen=True)
class constant:
    """The same value at every step.

    Example:
      >>> import jax.numpy as jnp
      >>> float(constant(0.5)(jnp.array(7)))
      0.5
    """

    value: float

    def __post_init__(self) -> None:
        check_in("(-inf, inf)", value=self.value)

    def __call__(self, step: Array) -> Array:
        return jnp.full(jnp.shape(step), self.value, jnp.float32)


@dataclass(frozen=True)
class cubic:
    """From `start` to `end` between two steps, steep at first: the curve of gradual pruning.

        v(t) = end + (start - end) * (1 - (t - first) / (last - first))^3

    Args:
      start: value up to step `first`.
      end: value from step `last` on.
      first: step at which the curve starts to change.
      last: step at which it reaches `end`; must be later than `first`.

    Raises:
      ValueError: last <= first.

    Example:
      >>> import jax.numpy as jnp
      >>> curve = cubic(1.0, 0.0, 0, 10)
      >>> [round(float(curve(jnp.array(t))), 3) for t in (0, 5, 10, 20)]
      [1.0, 0.125, 0.0, 0.0]

    Reference: Zhu and Gupta, To prune, or not to prune, 2017, equation 1.
    """

    start: float
    end: float
    first: int
    last: int

    def __post_init__(self) -> None:
        _check_span(self)

    def __call__(self, step: Array) -> Array:
        return self.end + (self.start - self.end) * (1.0 - _progress(self, step)) ** 3


@dataclass(frozen=True)
class geometric:
    """From `start` to `end` in equal ratios: an inverse temperature for annealing.

        v(t) = start * (end / start)^((t - first) / (last - first))

    Args:
      start: value up to step `first`, above 0.
      end: value from step `last` on, above 0.
      first: step at which the curve starts to change.
      last: step at which it reaches `end`; must be later than `first`.
      every: steps between changes, such as the steps of an epoch.

    Raises:
      ValueError: last <= first, every below 1, or a value that is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> curve = geometric(1.0, 100.0, 0, 10, every=5)
      >>> [round(float(curve(jnp.array(t))), 3) for t in (0, 4, 5, 10, 20)]
      [1.0, 1.0, 10.0, 100.0, 100.0]

    Reference: Labach and Valaee, Gibbs pruning, 2020 (schedule of the authors' code).
    """

    start: float
    end: float
    first: int
    last: int
    every: int = 1

    def __post_init__(self) -> None:
        check_in("(0, inf)", start=self.start, end=self.end)
        _check_span(self)
        check_in("[1, inf)", every=self.every)

    def __call__(self, step: Array) -> Array:
        stairs = jnp.floor(jnp.asarray(step, jnp.float32) / self.every) * self.every
        return self.start * (self.end / self.start) ** _progress(self, stairs)


@dataclass(frozen=True)
class silo:
    """Peak learning rate of a pruning round: an S-curve in the fraction pruned so far.

        peak(m) = start + (end - start) / (1 + (g / (1 - g))^-slope),   g = 1 - kept^(m - delay)

    SILO is `warm_stairs` with this peak. S-Cyc is `triangle` with this peak; that follows the
    text of the paper, as its numbers could not be checked.

    Args:
      start: peak up to round `delay`.
      end: peak for a network pruned to almost nothing.
      kept: fraction of the remaining weights that each round keeps, in (0, 1).
      delay: number of rounds by which the peak lags behind.
      slope: steepness around the middle, where half of the weights remain.

    Raises:
      ValueError: kept or start out of range.

    Example:
      >>> [round(float(silo(0.03, 0.07)(m)), 5) for m in (0, 2, 4, 6, 10)]
      [0.03, 0.03004, 0.04761, 0.06893, 0.07]

    Reference: Liu, Ghosh, Tan and Motani, Optimizing learning rate schedules for iterative pruning
      of deep neural networks, TMLR 2023; formula and values of the authors' code.
    """

    start: float
    end: float
    kept: float = 0.8
    delay: int = 1
    slope: float = 5.0

    def __post_init__(self) -> None:
        check_in("(0, inf)", start=self.start, end=self.end, slope=self.slope)
        check_in("(0, 1)", kept=self.kept)
        check_in("[0, inf)", delay=self.delay)

    def __call__(self, step: Array | int) -> Array:
        rounds = jnp.maximum(jnp.asarray(step, jnp.float32) - self.delay, 0.0)
        left = self.kept**rounds
        up, down = (1.0 - left) ** self.slope, left**self.slope
        return self.start + (self.end - self.start) * up / (up + down)


@dataclass(frozen=True)
class warm_stairs:
    """A linear warm-up over `warm` steps to `peak`, which is divided by 10 at each of `falls`.

    Args:
      peak: highest learning rate, such as `silo(0.03, 0.07)(round.number)`.
      warm: steps of the warm-up, cut short by the first of `falls` if that comes earlier.
      falls: steps from which the rate is peak / 10, peak / 100, ...

    Example:
      >>> curve = warm_stairs(1.0, 10, (20, 30))
      >>> [round(float(curve(t)), 3) for t in (0, 5, 10, 20, 30)]
      [0.0, 0.5, 1.0, 0.1, 0.01]
    """

    peak: float
    warm: int = 0
    falls: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_in("[0, inf)", warm=self.warm, **known(peak=self.peak))
        check_is(tuple | list, "a tuple of steps", falls=self.falls)
        for fall in self.falls:
            check_in("[0, inf)", falls=fall)

    def __call__(self, step: Array | int) -> Array:
        time = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum(1.0, time / self.warm) if self.warm else jnp.ones_like(time)
        for n, fall in enumerate(sorted(self.falls), start=1):
            rise = jnp.where(time >= fall, 0.1**n, rise)
        return self.peak * rise


@dataclass(frozen=True)
class triangle:
    """Linear from `low` to `high` in `half` steps and back in as many, repeatedly.

    Example:
      >>> [float(triangle(0.0, 1.0, 4)(t)) for t in (0, 2, 4, 6, 8, 10)]
      [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]

    Reference: Smith, Cyclical learning rates for training neural networks, WACV 2017.
    """

    low: float
    high: float
    half: int

    def __post_init__(self) -> None:
        check_in("(-inf, inf)", **known(low=self.low, high=self.high))
        check_in("(0, inf)", half=self.half)

    def __call__(self, step: Array | int) -> Array:
        time = jnp.asarray(step, jnp.float32) / self.half
        return self.low + (self.high - self.low) * (1.0 - jnp.abs(time % 2.0 - 1.0))


def _check_span(curve: cubic | geometric) -> None:
    for name in ("start", "end", "first", "last"):
        check_in("(-inf, inf)", **{name: getattr(curve, name)})
    if curve.last <= curve.first:
        raise ValueError(
            f"{type(curve).__name__} got first={curve.first}, last={curve.last}; last must be "
            "later than first"
        )


def _progress(curve: cubic | geometric, step: Array) -> Array:
    """0 up to the first step, 1 from the last one on."""
    time = (jnp.asarray(step, jnp.float32) - curve.first) / (curve.last - curve.first)
    return jnp.clip(time, 0.0, 1.0)


def at(value: float | Schedule, step: Array) -> Array:
    """A number, or the value of a curve at a step: float32, [] like the step."""
    curve = value if callable(value) else constant(value)
    return curve(step)


def check_curve(interval: str, **values: float | Schedule) -> None:
    """Refuse a number, or a curve at any step, outside an interval, or NaN.

    Curves are computed at once at every step up to 4096, and at some up to 2^24.
    """
    for name, value in values.items():
        if isinstance(value, type) or not (callable(value) or is_number(value)):
            raise TypeError(
                f"{name} must be a number in {interval}, or a curve such as schedule.cubic(...); "
                f"got {shown(value)}"
            )
        if not callable(value):
            check_in(interval, **{name: value})
            continue
        try:
            low, high = _extremes(value)
        except Exception as error:  # a curve of the user may raise anything
            raise TypeError(
                f"{name} is a curve, a function of the step such as schedule.cubic(...), and "
                f"{shown(value)} fails: {type(error).__name__}: {error}"
            ) from error
        for reached in (low, high):
            try:
                check_in(interval, **{name: reached})
            except ValueError as error:
                raise ValueError(f"{error} from the curve {shown(value)}") from None


@lru_cache(maxsize=64)
def _extremes(curve: Schedule) -> tuple[float, float]:
    """The lowest and the highest value of a curve; NaN if it is NaN anywhere."""
    far = np.geomspace(4096, 2**24, 1024).astype(np.int32)
    steps = np.concatenate([np.arange(4096, dtype=np.int32), far])
    with jax.ensure_compile_time_eval():
        found = np.asarray(jax.vmap(curve)(jnp.asarray(steps)), np.float64)
    if found.shape != steps.shape:
        raise TypeError(f"it gives arrays of shape {found.shape[1:]}, not one number per step")
    found = np.where(np.abs(found - 1) < 1e-6, 1.0, found)  # float32 may round past 1
    return float(found.min()), float(found.max())
