"""L0 regularization: a learned random gate for each unit.

1. Each unit has a gate with a learned logit log a, and at each train step a uniform number u.
2. In training, s = sigmoid((log u - log(1 - u) + log a) / beta) is stretched to (gamma, zeta) and
   clipped:
       z = min(1, max(0, s * (zeta - gamma) + gamma)).
   Thus z is exactly 0 or 1 with positive probability, and differentiable in log a in between.
3. At test time, the same with s = sigmoid(log a).
4. The layer reads W * z.
5. The loss gains lam * sum_u |u| P(z_u > 0), with |u| the number of weights of the unit and
       P(z > 0) = sigmoid(log a - beta log(-gamma / zeta)).
6. After each step log a is clipped to [log 0.01, log 100].

Numbers: measured in `experiments/structured.py`, with Filter, Channel and Block units.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse._checks import check_weight
from jsparse._pattern import Each, Role, Scope, Unit, Weight
from jsparse._random import draw_key, new_draw, next_draw
from jsparse._step import masked
from jsparse._tiles import grid_shape, unit_sizes
from jsparse._values import check_in
from jsparse.rules._remaining import select_remaining, whole_shape
from jsparse.rules._rule import State, check_structure, to_weights, unit_magnitude

GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3
LIMIT = math.log(100.0)  # of the logits, in both directions
MARGIN = 1e-6  # of u from 0 and 1
NOISE = 1e-2  # added to the logits at the start


@dataclass(frozen=True, kw_only=True)
class HardConcrete:
    """Multiply each unit by a random gate that can be exactly 0, and penalize open gates.

        W' = W * z,   cost = lam * sum_u |u| sigmoid(log a_u - beta log(-gamma / zeta))

    Each train step uses one sample; `model.eval()`, `fold` and `hold` use the gates of step 3.

    Args:
      lam: penalty per weight, 0 or more; the paper uses 0.1 / 60,000 for MNIST.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block. The authors
        gate the inputs of dense layers (Channel) and the outputs of convolutions (Filter).
      start: initial sigmoid(log a), in (0, 1), before noise of size 0.01 is added to log a. The
        fraction of open gates is higher: 83 % for start = 0.5.
      scope: only Each, since gates do not compete.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: lam or start out of range; a scope other than Each.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jsparse._pattern import Filter
      >>> rule = HardConcrete(lam=1e-3, unit=Filter())
      >>> weight = jnp.array([[0.3, -0.1], [0.2, 0.5]])
      >>> state = rule.init(weight, jax.random.key(0)) | {"logits": jnp.array([[4.0, -4.0]])}
      >>> del state["draw"]
      >>> rule.mask(weight, state).tolist()
      [[1.0, 0.0], [1.0, 0.0]]

    Reference: Louizos et al., Learning sparse neural networks through L0 regularization, ICLR 2018,
    sections 2.2 and 2.3; limits and the start from the authors' code.
    """

    lam: float
    unit: Unit = Weight()
    start: float = 0.5
    scope: Scope = Each()
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ("logits",)
    alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_structure(self)
        check_in("[0, inf)", lam=self.lam)
        check_in("(0, 1)", start=self.start)
        if self.scope != Each():
            raise ValueError(
                f"each unit has its own gate, so the scope must be Each(); got {self.scope}. For "
                f"units that compete use Top(density=..., scope={self.scope}) or Gibbs(...)"
            )

    def init(self, weight: Array, key: Array) -> State:
        """Logits, [grid of units]; a penalty for each size of unit; the source of draws, [2]."""
        check_weight(weight)
        tile = self.unit.tile(weight.shape, self.role)
        gates = jnp.zeros_like(unit_magnitude(self, weight))
        noise_key, draw = jax.random.split(key)
        noise = NOISE * jax.random.normal(noise_key, gates.shape, gates.dtype)
        return {
            "logits": gates + math.log(self.start / (1 - self.start)) + noise,
            "price": self.lam * unit_sizes(weight.shape, tile).astype(gates.dtype),
            "draw": new_draw(draw),
        }

    def mask(self, weight: Array, state: State) -> Array:
        """[...] like the weight, 1 where the gate is open; constant for differentiation."""
        return to_weights(self, self.gates(weight, state) > 0, weight)

    def gates(self, weight: Array, state: State) -> Array:
        """The gates z, in [0, 1]: [grid of units]; sampled if the state has a draw."""
        logits = state["logits"]
        if "draw" in state:
            shape = whole_shape(self, weight.shape)  # or units would get each other's draws
            grid = grid_shape(shape, self.unit.tile(shape, self.role))
            key = draw_key(state["draw"])
            u = jax.random.uniform(key, grid, logits.dtype, MARGIN, 1 - MARGIN)
            u = select_remaining(self, u)
            logits = (jnp.log(u) - jnp.log1p(-u) + logits) / BETA
        return jnp.clip(jax.nn.sigmoid(logits) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the product of weight and gates."""
        return masked(weight, to_weights(self, self.gates(weight, state), weight))

    def cost(self, state: State) -> Array:
        """[], the sum of penalty times P(gate is open); penalties receive no gradient."""
        opening = jax.nn.sigmoid(state["logits"] - BETA * math.log(-GAMMA / ZETA))
        return (lax.stop_gradient(state["price"]) * opening).sum()

    def advance(self, weight: Array, state: State) -> State:
        """The state with clipped logits and the next draw."""
        logits = jnp.clip(state["logits"], -LIMIT, LIMIT)
        return state | {"logits": logits, "draw": next_draw(state["draw"])}
