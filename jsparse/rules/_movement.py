"""Movement pruning: learned scores that increase for weights that move away from 0.

1. Each unit has a learned score S, 0 at the start.
2. Movement: M = 1 for the fraction `density` of units with the highest scores; the density may
   follow a decreasing curve.
   SoftMovement: M = 1 where sigmoid(S) > tau, and the loss gains lam * mean(sigmoid(S)).
3. The layer reads W * M. In the backward pass, M passes its gradient to S as if it were S:
       dW = G * M,   dS_u = sum_{i in u} G_i W_i,
   so S decreases where a gradient step brings the weight closer to 0.

If all scores were exactly 0, ties would keep the first rows. The scores therefore start with noise
of size 1e-20, negligible beside any update, which makes the first mask random. (The authors' code
starts from exact zeros and lets the sort break ties; its density starts at 1.)

Numbers: the published tables are for BERT and were not reproduced; `experiments/compare.py`
compares methods on small networks.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse._checks import check_rivalry, check_weight
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._random import counted
from jsparse._schedule import Schedule, at, check_curve
from jsparse._step import passed_on
from jsparse._topk import winners
from jsparse._values import by_density, check_in
from jsparse.rules._rule import (
    State,
    Tiled,
    check_structure,
    compete,
    mask_as_gates,
    no_cost,
    to_weights,
    unchanged,
    unit_magnitude,
    weight_times_mask,
    with_cut,
)


@by_density
@dataclass(frozen=True, kw_only=True)
class Movement:
    """Keep the units with the highest learned scores.

        W' = W * top(S),   dL/dW = G * top(S),   dL/dS_u = sum_{i in u} G_i W_i

    Under sign descent and Lion all scores move equally far, so many are equal, and of those the
    first units are kept. Give scores another optimizer there:
    `route(model, optax.lion(1e-3), optax.adam(1e-2))`.

    Args:
      density: fraction of the units of each group to keep, in (0, 1], or its curve over the train
        steps, such as `schedule.cubic(1.0, 0.1, first, last)`.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block.
      scope: which units compete: Whole (as in the paper), PerOutput, Groups(m) or WholeModel.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: density outside (0, 1]; a scope in which no units compete.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rule = Movement(density=0.5)
      >>> weight = jnp.array([[0.3, -0.1], [0.2, 0.5]])
      >>> state = rule.init(weight, jax.random.key(0))
      >>> state |= {"scores": jnp.array([[0.1, 0.2], [0.3, -0.4]])}
      >>> rule.mask(weight, state).tolist()
      [[0.0, 1.0], [1.0, 0.0]]

    Reference: Sanh et al., Movement pruning, NeurIPS 2020, section 4; in blocks, Lagunas et al.,
    Block pruning for faster transformers, EMNLP 2021.
    """

    density: float | Schedule
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ("scores",)

    def __post_init__(self) -> None:
        check_structure(self)
        check_curve("(0, 1]", density=self.density)
        check_rivalry("Movement", self.scope)

    def init(self, weight: Array, key: Array) -> State:
        """Scores, [grid of units]; steps so far, []; with scope `WholeModel` also the cut, [4].

        Raises:
          ValueError: the group size of the scope does not divide the length of its axis.
        """
        state = {"scores": first_scores(self, weight, key), "step": jnp.zeros((), jnp.float32)}
        return with_cut(self, weight, state)

    def score(self, weight: Array, state: State) -> Array:
        """[grid of units], the learned scores."""
        return state["scores"]

    def kept(self, state: State) -> Array:
        """The density at this step."""
        return at(self.density, state["step"])

    def mask(self, weight: Array, state: State) -> Array:
        """[...] like the weight, 0 or 1; the gradient passes to the scores."""
        won = compete(self, lax.stop_gradient(state["scores"]), state)
        return learned_mask(self, weight, won, state)

    gates = mask_as_gates
    apply = weight_times_mask
    cost = no_cost

    def advance(self, weight: Array, state: State) -> State:
        """The state, with one more step counted."""
        return state | {"step": counted("step", state["step"]) + 1}


@dataclass(frozen=True, kw_only=True)
class SoftMovement:
    """Keep the units whose learned score exceeds a fixed threshold, and penalize high scores.

        W' = W * [sigmoid(S) > tau],   cost = lam * mean_u sigmoid(S_u)

    The mean over the units of a layer follows the authors' code (the paper writes a sum). Their
    code averages over layers; here the costs of layers add up, as for every rule.

    Args:
      lam: weight of the cost, 0 or more; higher is sparser.
      tau: threshold, in (0, 1); below 0.5 all units are kept at the start.
      least: minimum fraction of a layer's units to keep, in (0, 1]; it prevents layer collapse.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: lam, tau or least out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rule = SoftMovement(lam=1.0)
      >>> weight = jnp.array([[0.3, -0.1], [0.2, 0.5]])
      >>> state = {"scores": jnp.array([[0.0, -4.0], [-1.0, 4.0]])}
      >>> rule.mask(weight, state).tolist()
      [[1.0, 0.0], [1.0, 1.0]]

    Reference: Sanh et al., Movement pruning, NeurIPS 2020, section 4; tau and least from the
    authors' code.
    """

    lam: float
    tau: float = 0.1
    least: float = 0.005
    unit: Unit = Weight()
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ("scores",)

    def __post_init__(self) -> None:
        check_structure(self)
        check_in("[0, inf)", lam=self.lam)
        check_in("(0, 1]", least=self.least)
        check_in("(0, 1)", tau=self.tau)

    def init(self, weight: Array, key: Array) -> State:
        """Scores, [grid of units]."""
        return {"scores": first_scores(self, weight, key)}

    def mask(self, weight: Array, state: State) -> Array:
        """[...] like the weight, 0 or 1; the gradient passes to the scores."""
        scores = lax.stop_gradient(state["scores"])
        won = (jax.nn.sigmoid(scores) > self.tau) | winners(scores, self.least, Whole(), self.role)
        return learned_mask(self, weight, won, state)

    gates = mask_as_gates
    apply = weight_times_mask

    def cost(self, state: State) -> Array:
        """[], lam times the mean of sigmoid(S)."""
        return self.lam * jax.nn.sigmoid(state["scores"]).sum() / max(1, state["scores"].size)

    advance = unchanged


def first_scores(rule: Tiled, weight: Array, key: Array) -> Array:
    """Zeros with noise to break ties: float32 or wider, [grid of units]."""
    check_weight(weight)
    zeros = jnp.zeros_like(unit_magnitude(rule, weight))
    return zeros + 1e-20 * jax.random.normal(key, zeros.shape, zeros.dtype)


def learned_mask(rule: Tiled, weight: Array, won: Array, state: State) -> Array:
    """[...] like the weight: 1 where its unit is kept, with the gradient passed to its score."""
    scores = state["scores"]
    return to_weights(rule, passed_on(won.astype(scores.dtype), scores), weight)
