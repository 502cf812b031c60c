"""What products with a kernel for one platform share."""

from typing import Any

import jax
from jax import Array
from jax.custom_batching import custom_vmap

WIDEST = 16
"""Floats in a vector of the kernels for the CPU; the machine may have less."""


def on_cpu(cpu: Any, plain: Any) -> Any:
    """A function that is `cpu` where it is lowered for the CPU and `plain` elsewhere."""
    return lambda *args: jax.lax.platform_dependent(*args, cpu=cpu, default=plain)


def by_rows(product: Any, plain: Any) -> Any:
    """A product whose last argument is rows, for vmap too.

    Args:
      product: (matrix..., x [batch, in]) -> [batch, out].
      plain: the same in plain JAX.

    Returns:
      The product; under vmap over x alone there are more rows, else it is `plain`.
    """
    wrapped = custom_vmap(product)

    @wrapped.def_vmap
    def batched(size: int, in_batched: list, *args: Array) -> tuple[Array, bool]:
        *matrix, rows = args
        if any(in_batched[:-1]):
            axes = [0 if batched else None for batched in in_batched]
            return jax.vmap(plain, axes)(*args), True
        out = wrapped(*matrix, rows.reshape(-1, rows.shape[-1]))
        return out.reshape(size, -1, out.shape[-1]), True

    return wrapped
