"""What packed layers and their products share."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax import Array
from jax.custom_batching import custom_vmap

from jsparse._values import check_flag, check_floating, check_whole, is_whole, shown
from jsparse.export._packing import compiled
from jsparse.export._packing.bilinear import as_one_batch
from jsparse.export._packing.formats import CsrArrays, on_mesh
from jsparse.export._packing.structure import Sizes

WIDEST = 16
"""Floats in a vector of the kernels for the CPU; the machine may have less."""


def by_rows(product: Any, plain: Any) -> Any:
    """A product whose last argument is rows, also under vmap and with a gradient.

    Args:
      product: (matrix..., x [batch, in]) -> [batch, out].
      plain: the same in plain JAX.

    Returns:
      The product with the gradient of `plain`; under vmap over x alone it gets more rows, otherwise
      it is `plain`.
    """
    batchable = custom_vmap(product)

    @batchable.def_vmap
    def batched(size: int, in_batched: list, *args: Array) -> tuple[Array, bool]:
        *matrix, rows = args
        if any(in_batched[:-1]):
            axes = [0 if batched else None for batched in in_batched]
            return jax.vmap(plain, axes)(*args), True
        return as_one_batch(lambda rows: batchable(*matrix, rows), rows), True

    wrapped = jax.custom_vjp(batchable)
    back = lambda args, dy: jax.vjp(plain, *args)[1](dy)
    wrapped.defvjp(lambda *args: (wrapped(*args), args), back)
    return wrapped


def by_kernel(name: str, outputs: int, plain: Any, **settings: Any) -> Any:
    """`by_rows` with a kernel for the CPU, and `plain` on other platforms."""

    def cpu(*args: Array) -> Array:
        shape = jax.ShapeDtypeStruct((args[-1].shape[0], outputs), jnp.float32)
        return jax.ffi.ffi_call(name, shape)(*args, lanes=np.int64(WIDEST), **settings)

    product = lambda *args: jax.lax.platform_dependent(*args, cpu=cpu, default=plain)
    return by_rows(product, plain)


def has_kernel(x: Array, *arrays: Array) -> bool:
    """Whether the kernels for the CPU can take these: dtype of x, platform, compiler, no mesh."""
    kinds = (jnp.float32, jnp.bfloat16, jnp.float16)
    able = x.dtype in kinds and jax.default_backend() == "cpu" and not on_mesh(x, *arrays)
    return able and compiled.load()


class Structure(nnx.Variable):
    """The positions of the kept weights: whole numbers that are not trained."""


class Products(NamedTuple):
    """The products (arrays, x, plan) -> y of a packed layer, and the same in plain JAX."""

    kernel: Callable[..., Array]
    plain: Callable[..., Array]


class Packed(nnx.Module):
    """A layer that holds part of its kernel: y = x W + b, or a convolution.

    Abstract; `Csr`, `CsrConv`, `BlockSparse` and the 8-bit ones are not.
    """

    format: str
    """What files call it."""
    products: Products
    array_kind: type
    """Of what the products read: its fields are the names of the layer's variables."""

    in_features: int
    """Inputs of the matrix."""
    out_features: int
    """Outputs of the matrix."""
    in_shape: tuple[int, ...]
    """The last axes of x, which are the inputs."""
    out_shape: tuple[int, ...]
    """The last axes of y, which are the outputs."""
    values: nnx.Param
    bias: nnx.Param | None
    product: Any
    plan: Any
    """What the product needs besides the arrays."""
    sizes: Any
    """Of the matrix, such as `CsrSizes`."""

    @property
    def floats(self) -> nnx.Param:
        """The parameter that the product is linear in, as in x: the values."""
        return self.values

    @property
    def stack(self) -> tuple[int, ...]:
        """Axes of layers that are stacked in one, for `nnx.scan` and `nnx.vmap`; () for one."""
        return ()

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the dense kernel: [*stack, inputs, outputs], or of the window before these."""
        return (*self.stack, *self.in_shape, *self.out_shape)

    @property
    def kept(self) -> int:
        """Weights that are stored; those of a block count if they are not zero."""
        return int(np.count_nonzero(self.values[...]))

    def _set_features(
        self, in_features: int | Sequence[int], out_features: int | Sequence[int]
    ) -> None:
        """Set the sizes of both sides."""
        self.in_shape = as_shape(in_features=in_features)
        self.out_shape = as_shape(out_features=out_features)
        self.in_features, self.out_features = math.prod(self.in_shape), math.prod(self.out_shape)

    def _set_arrays(self, sizes: Sizes, use_bias: bool, dtype: Any, param_dtype: Any) -> None:
        """Set what every packed layer has: dtypes, a bias, and the arrays that sizes lay out.

        Raises:
          TypeError: use_bias is not a bool, or a dtype is not floating.
          ValueError: sizes that no matrix has.
        """
        check_whole(0, kept=sizes.kept)
        check_flag(use_bias=use_bias)
        check_floating(param_dtype=param_dtype, **({} if dtype is None else {"dtype": dtype}))
        sizes.check()
        self.dtype, self.param_dtype = dtype, param_dtype
        for name, (shape, kind) in sizes.layout.items():
            zeros = jnp.zeros(shape, kind or param_dtype)
            setattr(self, name, Structure(zeros) if kind else nnx.Param(zeros))
        bias = (*self.stack, *self.out_shape)
        self.bias = nnx.Param(jnp.zeros(bias, param_dtype)) if use_bias else None

    def arrays(self, floats: Array) -> Any:
        """What the product reads, with these numbers instead of `floats`."""
        own = {name: getattr(self, name) for name in self.array_kind._fields}  # type: ignore
        return self.array_kind(
            **{name: floats if one is self.floats else one[...] for name, one in own.items()}
        )

    def _fill(self, arrays: Any) -> None:
        """Store what the product reads, in place."""
        for name, array in arrays._asdict().items():
            getattr(self, name)[...] = array

    def kernel_matrix(self) -> Array:
        """The whole kernel [in, out], with zeros where nothing is kept."""
        raise NotImplementedError

    def _promoted(self, x: Array, floats: Array, bias: Array | None) -> Any:
        """All three in the dtype of the computation."""
        return promote_dtype((x, floats, bias), dtype=self.dtype)

    def _check_input(self, x: Array) -> None:
        """Refuse an input that does not end in the inputs of the layer."""
        axes = len(self.in_shape)
        if x.ndim < axes or x.shape[-axes:] != self.in_shape:
            takes = ", ".join(map(str, self.in_shape))
            raise ValueError(
                f"x has shape {x.shape}, the layer takes [..., {takes}]; give it {takes} features"
            )

    def _multiplied(self, x: Array, floats: Array) -> Array:
        """What the layer computes, without the bias."""
        before = x.shape[: -len(self.in_shape)]
        if len(self.in_shape) > 1:
            x = x.reshape(*before, self.in_features)
        y = self.product(self.arrays(floats), x, self.plan)
        return y.reshape(*before, *self.out_shape) if len(self.out_shape) > 1 else y

    def check(self) -> None:
        """Refuse positions that do not fit a matrix of this size, as in damaged files.

        Files are checked where they are loaded; call it after filling a layer in another way.

        Raises:
          ValueError: it names the array and the place.
        """
        self.sizes.check_arrays(self.arrays(self.floats[...])._asdict())

    def __call__(self, x: Array, *, out_sharding: Any = None) -> Array:
        """[..., in] -> [..., out], where both may be several axes.

        Args:
          x: the input.
          out_sharding: of the output, on a mesh with explicit axes.

        Raises:
          ValueError: x has another number of features, or too few axes for the window of a
            convolution; or this is a stack of layers.
        """
        if self.stack:
            raise ValueError(
                f"a stack of {self.stack} layers was called; call one at a time, in nnx.scan or "
                "nnx.vmap, as the dense stack"
            )
        self._check_input(x)
        bias = self.bias[...] if self.bias is not None else None
        x, floats, bias = self._promoted(x, self.floats[...], bias)
        y = self._multiplied(x, floats)
        if out_sharding is not None:
            y = jax.sharding.reshard(y, out_sharding)
        return y if bias is None else y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


class Linked(Packed):
    """A packed layer that holds its links one by one; abstract, `Csr` and `CsrConv` are not."""

    array_kind = CsrArrays
    indices: Structure
    starts: Structure
    width: int
    """Inputs, or features, a group."""
    probe: Any = None
    """A `Probe` where a `jsparse.PackedOptimizer` grows links by gradient, or None."""

    @property
    def kept(self) -> int:
        """Links, including those whose value is 0, but not the room for dropped links."""
        return int(self.starts[...][..., -1].sum())

    @property
    def loose(self) -> bool:
        """Whether it holds more than its links: see `jsparse.export.trim`."""
        return self.probe is not None or (not self.stack and self.kept != self.values.size)


def features(in_features: Any, out_features: Any) -> tuple[int, int]:
    """Inputs and outputs of the matrix of a layer with these features."""
    shapes = as_shape(in_features=in_features), as_shape(out_features=out_features)
    return math.prod(shapes[0]), math.prod(shapes[1])


def as_shape(**sizes: Any) -> tuple[int, ...]:
    """One size, or several, as a tuple."""
    ((name, given),) = sizes.items()
    several = tuple(given) if isinstance(given, tuple | list) else (given,)
    allowed = f"{name} must be a whole number, 0 or more, or a tuple of such; got {shown(given)}"
    if not all(map(is_whole, several)):
        raise TypeError(allowed)
    if not several or min(several) < 0:
        raise ValueError(allowed)
    return tuple(map(int, several))
