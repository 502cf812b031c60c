"""Gibbs pruning: a random mask at each train step, annealed to a fixed one.

1. Each weight has a spin x, +1 kept or -1 pruned, and a field b = Q - w^2. sqrt(Q) is the cut that
   separates the fraction `density` of the units, those with the largest root mean square of their
   current weights, from the rest.
2. The spins of a layer follow p(x) ~ exp(-beta H(x)) with

     H(x) = sum_i b_i x_i                               single weights,
     H(x) = sum_i b_i x_i - c sum_{i != j} x_i x_j      i, j in a small unit, such as a kernel,
     H(x) = sum_i b_i x_i - c sum_{i in A, j in B} x_i x_j   A, B the halves of a large unit, such
                                                        as the input channels of a filter.

   The coupling c makes the weights of a unit agree.
3. Each train step uses one sample. Single weights are sampled independently. A small unit is
   sampled exactly: since all pairs have the same coupling, H depends only on the fields and on the
   number of kept weights, and the sum over the 2^n states becomes a recursion over the n weights
   and the number kept. The halves of a large unit are sampled alternately, each given the other
   (chromatic Gibbs sampling), starting from the mask of the largest units.
4. beta rises during training: masks change from fair coin flips at beta = 0 to the largest units
   as beta -> infinity. In eval mode the largest units are kept. A weight that equals the cut, as
   every weight does in a layer of zeros, is a fair coin flip at any beta.

Numbers: `experiments/gibbs_cifar.py`. They are not compared with the tables of the paper, which
were not available.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsparse._checks import check_density, check_rivalry, check_weight
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._random import draw_key, new_draw, next_draw, uniform
from jsparse._schedule import Schedule, at, check_curve, geometric
from jsparse._tiles import by_unit, from_units, pool, spread, unit_sizes
from jsparse._values import by_density, check_flag, check_in, check_whole
from jsparse.rules._coupled import Coupled
from jsparse.rules._rule import (
    State,
    check_structure,
    compete,
    cut_of,
    mask_as_gates,
    no_cost,
    own_density,
    unit_magnitude,
    weight_times_mask,
    with_cut,
)

LARGE = 2.0**90
"""Fields are limited to this size, far beyond that of a certain spin."""
ANNEALED = geometric(1.0, 1e4, 0, 10_000)
"""The authors' curve for single weights and kernels, over a run of 15,600 steps."""


@by_density
@dataclass(frozen=True, kw_only=True)
class Gibbs:
    """Sample the mask from a Gibbs distribution over the squares of the weights.

        p(x) ~ exp(-beta H(x)),   W' = W * (x + 1) / 2,   dL/dW = dL/dW' * (x + 1) / 2

    In eval mode the largest units are kept; the authors do this for kernels and filters, and sample
    single weights at the final beta.

    For single weights and halves, the authors' code uses beta where p(x) implies 2 beta; for small
    units it follows p(x). That is the default, because their schedules then transfer; with `exact`
    all units follow p(x).

    Args:
      density: fraction of the units of each group to keep in the end, in (0, 1].
      beta: inverse temperature, 0 or more, or its curve over the train steps. The authors use
        `geometric(1, 1e4, ...)` for weights and kernels and `geometric(10**-2.5, 1, ...)` for
        filters, over the first 64 % of the run. The default is the first of these over 10,000
        steps: for a run of about 16,000.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block.
      scope: which units compete: Whole, PerOutput, Groups(m) or WholeModel.
      coupling: c, 0 or more; the authors use 0.01 for kernels and 1 for filters.
      sweeps: how often both halves of a large unit are sampled.
      pairs_up_to: largest number of weights in a unit that counts as small; the time and memory of
        an exact sample grow with its square.
      exact: sample all units with the beta of p(x).
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: an argument out of range; a scope in which no units compete.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rule = Gibbs(density=0.5, beta=1e4)
      >>> weight = jnp.array([[0.3, -0.1], [0.2, 0.5]])
      >>> rule.mask(weight, rule.init(weight, jax.random.key(0))).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Reference: Labach and Valaee, A framework for neural network pruning using Gibbs distributions,
    GLOBECOM 2020 (arXiv 2006.04981), sections 3 and 4; constants from the authors' code.
    """

    density: float
    beta: float | Schedule = ANNEALED
    unit: Unit = Weight()
    scope: Scope = Whole()
    coupling: float = 1.0
    sweeps: int = 50
    pairs_up_to: int = 9
    exact: bool = False
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_structure(self)
        check_density(self.density)
        check_rivalry("Gibbs", self.scope)
        check_in("[0, inf)", coupling=self.coupling)
        check_curve("[0, inf)", beta=self.beta)
        check_whole(sweeps=self.sweeps, pairs_up_to=self.pairs_up_to)
        check_flag(exact=self.exact)

    def init(self, weight: Array, key: Array) -> State:
        """The source of random numbers, [2]; with scope `WholeModel` also the cut, [4].

        Raises:
          ValueError: the group size of the scope does not divide the length of its axis.
        """
        check_weight(weight)
        return with_cut(self, weight, {"draw": new_draw(key)})

    def score(self, weight: Array, state: State) -> Array:
        """[grid of units], the magnitude, which ranks as the mean square does."""
        return unit_magnitude(self, lax.stop_gradient(weight))

    kept = own_density

    def mask(self, weight: Array, state: State) -> Array:
        """[...] like the weight, 0 or 1; constant for differentiation."""
        score = self.score(weight, state)
        tile = self.unit.tile(weight.shape, self.role)
        if "draw" not in state or weight.size == 0 or self.density == 1:
            return spread(compete(self, score, state).astype(weight.dtype), tile, weight.shape)
        cut = cut_of(self, score, state)
        cut = spread(cut, tile, weight.shape).astype(score.dtype)
        size = jnp.abs(lax.stop_gradient(weight)).astype(cut.dtype)
        field = lax.clamp(-LARGE, (cut - size) * (cut + size), LARGE)  # Q - w^2
        beta = at(self.beta, state["draw"][1]).astype(score.dtype)
        key = draw_key(state["draw"])
        factor = 2.0 if self.exact else 1.0
        if self.unit in (Weight(), Coupled()):
            log_odds = -factor * beta * field
            kept = uniform(key, log_odds.shape, log_odds.dtype) < lax.logistic(log_odds)
        elif math.prod(tile) <= self.pairs_up_to:
            kept = self._pairs(key, field, tile, beta)
        else:
            kept = self._halves(key, field, tile, factor * beta, compete(self, score, state))
        return kept.astype(weight.dtype)

    gates = mask_as_gates
    apply = weight_times_mask
    cost = no_cost

    def advance(self, weight: Array, state: State) -> State:
        """The next draw."""
        return state | {"draw": next_draw(state["draw"])}

    @partial(jax.jit, static_argnums=(0, 3))
    def _pairs(self, key: Array, field: Array, tile: tuple[int, ...], beta: Array) -> Array:
        """An exact sample of each unit, bool [...] like the field.

        With r_i = exp(-2 beta b_i), and m of the weights before i kept, the weights from i on have
        the partition function

            Z_i(m) = Z_{i+1}(m) + r_i Z_{i+1}(m + 1),   Z_{n+1}(m) ~ exp(beta c (2 m - n)^2),

        and weight i is kept with probability r_i Z_{i+1}(m + 1) / Z_i(m).

        Example: a unit of n = 3 weights with r = (2, 1, 1/2) and beta c = log(2) / 8. Divided by
        exp(beta c n^2), Z_4(m) = 2^(-m (3 - m) / 2). From the last weight back to the first:

            m         0      1     2     3
            Z_4(m)    1     1/2   1/2    1
            Z_3(m)   5/4    3/4    1            Z_4(m) + Z_4(m + 1) / 2
            Z_2(m)    2     7/4                 Z_3(m) + Z_3(m + 1)
            Z_1(m)  11/2                        Z_2(m) + 2 Z_2(m + 1)

        Weight 1 is kept with probability 2 Z_2(1) / Z_1(0) = 7/11; then weight 2 with probability
        Z_3(2) / Z_2(1) = 4/7; then weight 3 with probability Z_4(3) / (2 Z_3(2)) = 1/2. All three
        are therefore kept with probability 7/11 * 4/7 * 1/2 = 2/11, none with 1 / Z_1(0) = 2/11.
          >>> rule = Gibbs(density=0.5, beta=1.0, coupling=math.log(2) / 8)
          >>> field = -jnp.log(jnp.array([[2.0], [1.0], [0.5]])) / 2  # b, of r = exp(-2 b)
          >>> many = jnp.tile(field, (1, 100_000))
          >>> kept = rule._pairs(jax.random.key(0), many, (3, 1), jnp.float32(1.0))
          >>> frequencies = kept[0].mean(), kept.all(0).mean(), (~kept).all(0).mean()
          >>> [round(float(p), 2) for p in frequencies]  # of 7/11, 2/11 and 2/11
          [0.64, 0.18, 0.18]
        """
        sizes = unit_sizes(field.shape, tile).astype(field.dtype)
        inside = by_unit(jnp.ones_like(field), tile) > 0
        ratio = jnp.where(inside, -2.0 * beta * by_unit(field, tile), -jnp.inf)  # log r
        n = len(ratio)
        kept = jnp.arange(n + 1, dtype=field.dtype).reshape(-1, *(1 for _ in ratio.shape[1:]))
        last = -4.0 * beta * self.coupling * kept * (sizes[None] - kept)
        last = last + jnp.zeros_like(ratio[:1])  # sharded like the fields
        shift = lambda z: jnp.concatenate([z[1:], z[-1:]])

        def back(z: Array, log_r: Array) -> tuple[Array, Array]:
            odds = log_r[None] + shift(z) - z
            return jnp.logaddexp(z, log_r[None] + shift(z)), odds

        _, odds = lax.scan(back, last, ratio, reverse=True)
        noise = jax.random.logistic(key, ratio.shape, field.dtype)

        def forward(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            odds, noise = now
            here = jnp.take_along_axis(odds, before[None], axis=0)[0]
            keep = here > noise
            return before + keep.astype(before.dtype), keep

        _, keep = lax.scan(forward, jnp.zeros_like(ratio[0], jnp.int32), (odds, noise))
        return from_units(keep, tile, field.shape)

    @partial(jax.jit, static_argnums=(0, 3))
    def _halves(
        self, key: Array, field: Array, tile: tuple[int, ...], beta: Array, wins: Array
    ) -> Array:
        """Sample the halves of each unit alternately: bool [...] like the field.

        The axis to halve is that of the input channels, or else the longest.
        """
        inputs = [a for a in self.role.input_axes(len(tile)) if tile[a] > 1]
        axis = inputs[-1] if inputs else max(range(len(tile)), key=lambda a: tile[a])
        length = tile[axis]
        place = np.arange(field.shape[axis])
        start = place - place % length
        extent = np.minimum(length, field.shape[axis] - start)  # smaller at a ragged edge
        first = jnp.asarray(place - start < extent // 2).reshape(
            [-1 if a == axis else 1 for a in range(field.ndim)]
        )
        halves = (first, ~first)

        def pull(kept: Array, half: Array) -> Array:
            """For each weight, the sum of the spins in one half of its unit."""
            spins = jnp.where(kept & half, 1.0, jnp.where(half, -1.0, 0.0)).astype(field.dtype)
            return spread(pool(spins, tile), tile, field.shape)

        def sweep(n: Array, kept: Array) -> Array:
            noise = jax.random.logistic(jax.random.fold_in(key, n), field.shape, field.dtype)
            level = noise + beta * field
            for half, other in (halves, halves[::-1]):
                new = level < beta * self.coupling * pull(kept, other)
                kept = jnp.where(half, new, kept)
            return kept

        start = spread(wins, tile, field.shape) | jnp.zeros_like(field, bool)  # and its sharding
        return lax.fori_loop(0, self.sweeps, sweep, start)
