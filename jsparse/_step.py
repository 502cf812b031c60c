"""Custom gradients: the 0/1 step, masked products, a signed power.

Weights are [...], and masks 0 or 1 of the same shape and type.

The only others are those of magnitudes, in `_score`, and of the cost of `Threshold`.

All except `refined` work under `grad`, `jvp`, `hessian`, `vmap` and `scan`; its docstring says why.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

Slope = Callable[[Array], Array]


def long_tailed(x: Array) -> Array:
    """Slope of the step in Dynamic Sparse Training: high at 0, flat up to 1, then 0.

        H(x) = 2 - 4|x|  for |x| <= 0.4;   0.4  for 0.4 < |x| <= 1;   0  beyond.

    Here x is a score minus its threshold. The integral over the real line is 1.44.

    Example:
      >>> [round(float(h), 3) for h in long_tailed(jnp.array([0.0, 0.2, 0.4, 1.0, 1.01]))]
      [2.0, 1.2, 0.4, 0.4, 0.0]

    Reference: Liu et al., Dynamic Sparse Training, ICLR 2020, equation 3.
    """
    size = jnp.abs(x)
    return lax.select(size <= 1.0, jnp.maximum(2.0 - 4.0 * size, 0.4), jnp.zeros_like(size))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def step(x: Array, slope: Slope = long_tailed) -> Array:
    """1 where x > 0, else 0, in the type of x; differentiated as if its derivative were `slope(x)`.

    The slope is a named function, since a new lambda would be traced again at every call.

    Example:
      >>> step(jnp.array([-0.1, 0.0, 0.1])).tolist()
      [0.0, 0.0, 1.0]
      >>> float(jax.grad(step)(0.25))
      1.0
    """
    return jnp.greater(x, 0).astype(jnp.result_type(x))


@step.defjvp
def _step_jvp(slope: Slope, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, dx = jnp.asarray(primals[0]), tangents[0]  # jax 0.7 passes Python numbers through unchanged
    return step(x, slope), slope(x) * dx


@jax.custom_jvp
def masked(weight: Array, mask: Array) -> Array:
    """weight * mask, which is +0.0 wherever the mask is 0, whatever the weight.

    A plain product would give -0.0 for a negative weight, which compresses badly, and NaN for an
    infinite or NaN weight. The derivatives are those of the product: with g the gradient of
    the result, d weight = g * mask and d mask = g * weight. The mask may be a gate between 0 and 1.

    Example:
      >>> masked(jnp.array([-2.0, jnp.inf, -3.0]), jnp.array([0.0, 0.0, 1.0])).tolist()
      [0.0, 0.0, -3.0]
    """
    product = weight * mask
    off = mask == 0
    if jax.typeof(off).sharding != jax.typeof(product).sharding:
        off |= jnp.zeros_like(product, bool)
    return lax.select(off, jnp.zeros_like(product), product)


@masked.defjvp
def _masked_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (weight, mask), (d_weight, d_mask) = primals, tangents
    return masked(weight, mask), d_weight * mask + d_mask * weight


@jax.custom_jvp
def gate(weight: Array, mask: Array) -> Array:
    """`masked`, whose mask receives the dense gradient.

    With g the gradient of the result: d weight = g * mask, d mask = g. The mask thus receives the
    gradient that the dense weight would have had, which growth criteria (RigL) read. Do not use it
    for a learned mask, which would get a wrong gradient; use the plain product.
    """
    return masked(weight, mask)


@gate.defjvp
def _gate_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (weight, mask), (d_weight, d_mask) = primals, tangents
    return gate(weight, mask), d_weight * mask + d_mask


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def known_norm(norm: Array, weight: Array, mean_square: Callable[[Array], Array]) -> Array:
    """The given norm, differentiated with respect to the weight as sqrt(mean_square(weight) + c).

    The norm, [units], is the root of the mean square over this weight and others, to which the
    weight adds `mean_square(weight)`, [...] -> [units]. Where the norm is 0, so is the gradient.

    Example:
      >>> of = lambda weight: known_norm(jnp.array([5.0]), weight, lambda w: w**2)[0]
      >>> [x.tolist() for x in jax.value_and_grad(of)(jnp.array([3.0]))]  # of sqrt(w^2 + 16)
      [5.0, [0.6000000238418579]]
    """
    return norm


@known_norm.defjvp
def _known_norm_jvp(mean_square: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (norm, weight), (d_norm, d_weight) = primals, tangents
    _, own = jax.jvp(mean_square, (weight,), (d_weight,))
    alive = norm > 0
    share = jnp.where(alive, own / (2 * jnp.where(alive, norm, 1.0)), 0.0)
    return norm, d_norm + share.astype(norm.dtype)


@jax.custom_jvp
def straight_through(weight: Array, mask: Array) -> Array:
    """`masked`, whose weight receives the dense gradient and whose mask receives none.

    Reference: Bengio et al., Estimating or propagating gradients through stochastic neurons, 2013.
    """
    return masked(weight, mask)


@straight_through.defjvp
def _straight_through_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (weight, mask), (d_weight, _) = primals, tangents
    return straight_through(weight, mask), d_weight


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def refined(weight: Array, mask: Array, decay: float) -> Array:
    """`masked`, whose weight receives the dense gradient, plus decay where it is masked.

    With g the gradient of the result: d weight = g + decay * (1 - mask) * weight, d mask = 0. The
    second term does not depend on g, so this is not the derivative of any function: there is no
    forward-mode rule (`jvp`, `hessian`), and each read of a weight adds the term once more. If
    layers share a weight or a scan reads it repeatedly, use `resolve` to read it once per pass.

    Reference: Zhou et al., Learning N:M fine-grained structured sparse networks, 2021, section 3.
    """
    return masked(weight, mask)


def _refined_forward(weight: Array, mask: Array, decay: float) -> tuple[Array, tuple]:
    return refined(weight, mask, decay), (weight, mask)


def _refined_backward(decay: float, kept: tuple, g: Array) -> tuple[Array, Array]:
    weight, mask = kept
    return g + decay * (1 - mask) * weight, jnp.zeros_like(mask)


refined.defvjp(_refined_forward, _refined_backward)


def passed_on(mask: Array, score: Array) -> Array:
    """The mask, differentiated as if it were the score from which it was computed: finite, [...].

    Example:
      >>> jax.value_and_grad(passed_on, 1)(jnp.array(1.0), jnp.array(0.3))[1].item()
      1.0
    """
    return lax.stop_gradient(mask) + (score - lax.stop_gradient(score))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def signed_power(x: Array, exponent: float) -> Array:
    """sign(x) |x|^exponent, whose derivative exponent |x|^(exponent - 1) is finite at 0 as well.

    The exponent is above 0, and 1 or more where this is differentiated.

    Example:
      >>> signed_power(jnp.array([-2.0, 0.0, 3.0]), 2.0).tolist()
      [-4.0, 0.0, 9.0]
    """
    return jnp.sign(x) * jnp.abs(x) ** exponent


@signed_power.defjvp
def _signed_power_jvp(exponent: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    at_zero = x == 0  # separately, or higher derivatives would be 0 times infinity
    slope = exponent * jnp.abs(jnp.where(at_zero, jnp.ones_like(x), x)) ** (exponent - 1)
    return signed_power(x, exponent), jnp.where(at_zero, float(exponent == 1), slope) * dx
