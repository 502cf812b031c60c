"""What packed layers and their products share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax import Array
from jax.custom_batching import custom_vmap

from jsparse._values import check_flag, check_floating, check_whole
from jsparse.export._packing import compiled

WIDEST = 16
"""Floats in a vector of the kernels for the CPU; the machine may have less."""


def on_cpu(cpu: Any, plain: Any) -> Any:
    """A function that is `cpu` when lowered for the CPU and `plain` elsewhere."""
    return lambda *args: jax.lax.platform_dependent(*args, cpu=cpu, default=plain)


def by_rows(product: Any, plain: Any) -> Any:
    """A product whose last argument is rows, also under vmap.

    Args:
      product: (matrix..., x [batch, in]) -> [batch, out].
      plain: the same in plain JAX.

    Returns:
      The product; under vmap over x alone it gets more rows, otherwise it is `plain`.
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


def has_kernel(x: Array) -> bool:
    """Whether the kernels for the CPU can take such an x: dtype, platform, compiler."""
    kinds = (jnp.float32, jnp.bfloat16, jnp.float16)
    return x.dtype in kinds and jax.default_backend() == "cpu" and compiled.load()


class Structure(nnx.Variable):
    """The positions of the kept weights: whole numbers that nothing trains."""


class Products(NamedTuple):
    """The products (arrays, x, plan) -> y of a packed layer, and the same in plain JAX."""

    kernel: Callable[..., Array]
    plain: Callable[..., Array]


class Packed(nnx.Module):
    """A linear layer that holds part of its kernel: y = x W + b.

    Abstract; `Csr`, `BlockSparse` and the same with 8-bit weights are not.
    """

    format: str
    """What files call it."""
    products: Products

    in_features: int
    out_features: int
    values: nnx.Param
    bias: nnx.Param | None
    product: Any
    plan: Any
    """What the product is told besides the arrays."""
    sizes: Any
    """Of the matrix, such as `CsrSizes`."""

    @property
    def floats(self) -> nnx.Param:
        """The parameter that the product is linear in, as in x: the values."""
        return self.values

    @staticmethod
    def check_settings(
        in_features: int, out_features: int, kept: int, use_bias: bool, dtype: Any, param_dtype: Any
    ) -> None:
        """Refuse settings that no packed layer has.

        Raises:
          TypeError: use_bias is no truth value, or a dtype not of floats.
          ValueError: a size is no whole number.
        """
        check_whole(0, in_features=in_features, out_features=out_features, kept=kept)
        check_flag(use_bias=use_bias)
        check_floating(param_dtype=param_dtype, **({} if dtype is None else {"dtype": dtype}))

    def _settle(self, shape: tuple[int, ...], use_bias: bool, dtype: Any, param_dtype: Any) -> None:
        """Set what every packed layer has: values of this shape, a bias, dtypes."""
        self.dtype, self.param_dtype = dtype, param_dtype
        self.values = nnx.Param(jnp.zeros(shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((self.out_features,), param_dtype)) if use_bias else None

    def arrays(self, floats: Array) -> Any:
        """What the product reads, with these numbers in place of `floats`."""
        raise NotImplementedError

    def kernel_matrix(self) -> Array:
        """The whole kernel [in, out], with zeros where nothing is kept."""
        raise NotImplementedError

    def _promoted(self, x: Array, floats: Array, bias: Array | None) -> Any:
        """All three in the dtype of the computation."""
        return promote_dtype((x, floats, bias), dtype=self.dtype)

    def check(self) -> None:
        """Refuse positions that are not those of a matrix of this size, as damaged files have them.

        Files are checked where they are loaded; call it after filling a layer in another way.

        Raises:
          ValueError: it names the array and the place.
        """
        self.sizes.check_arrays(self.arrays(self.floats[...])._asdict())

    def __call__(self, x: Array) -> Array:
        """[..., in] -> [..., out].

        Raises:
          ValueError: x has another number of features.
        """
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x has shape {x.shape}, the layer takes [..., {self.in_features}]; give it "
                f"{self.in_features} features"
            )
        bias = self.bias[...] if self.bias is not None else None
        x, floats, bias = self._promoted(x, self.floats[...], bias)
        y = self.product(self.arrays(floats), x, self.plan)
        return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
