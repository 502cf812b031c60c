"""Stock Flax layers with `rule=`, for models written by hand.

Each function returns the `flax.nnx` layer of the same name, with its weights replaced by `Sparse`.
All other keyword arguments are passed to the stock layer.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flax import nnx

from jsparse._roles import kernel_axes
from jsparse._slots import check_rngs
from jsparse._surgery import sparsify_in_place
from jsparse._values import check_shape, check_whole, is_whole, shown
from jsparse.rules._rule import Rule

Layer = TypeVar("Layer", bound=nnx.Module)


def Linear(
    in_features: int, out_features: int, *, rule: Rule, rngs: nnx.Rngs, **stock: Any
) -> nnx.Linear:
    """`nnx.Linear` with a sparse kernel [in, out].

    Example:
      >>> from flax import nnx
      >>> from jsparse import Threshold
      >>> Linear(784, 300, rule=Threshold(), rngs=nnx.Rngs(0)).kernel.threshold.shape
      (300,)
    """
    check_whole(in_features=in_features, out_features=out_features)
    return _made(nnx.Linear, (in_features, out_features), rule, rngs, stock)


def LinearGeneral(
    in_features: int | Sequence[int],
    out_features: int | Sequence[int],
    *,
    rule: Rule,
    rngs: nnx.Rngs,
    **stock: Any,
) -> nnx.LinearGeneral:
    """`nnx.LinearGeneral` with a sparse kernel [in..., out...]."""
    _check_sizes(in_features=in_features, out_features=out_features)
    return _made(nnx.LinearGeneral, (in_features, out_features), rule, rngs, stock)


def Conv(
    in_features: int,
    out_features: int,
    kernel_size: int | Sequence[int],
    *,
    rule: Rule,
    rngs: nnx.Rngs,
    **stock: Any,
) -> nnx.Conv:
    """`nnx.Conv` with a sparse kernel [spatial..., in / groups, out]."""
    check_whole(in_features=in_features, out_features=out_features)
    _check_sizes(kernel_size=kernel_size)
    return _made(nnx.Conv, (in_features, out_features, kernel_size), rule, rngs, stock)


def ConvTranspose(
    in_features: int,
    out_features: int,
    kernel_size: int | Sequence[int],
    *,
    rule: Rule,
    rngs: nnx.Rngs,
    **stock: Any,
) -> nnx.ConvTranspose:
    """`nnx.ConvTranspose` with a sparse kernel [spatial..., in, out], or [spatial..., out, in]."""
    check_whole(in_features=in_features, out_features=out_features)
    _check_sizes(kernel_size=kernel_size)
    sizes = in_features, out_features, kernel_size
    return _made(nnx.ConvTranspose, sizes, rule, rngs, stock)


def Einsum(
    einsum_str: str, kernel_shape: Sequence[int], *, rule: Rule, rngs: nnx.Rngs, **stock: Any
) -> nnx.Einsum:
    """`nnx.Einsum` with a sparse kernel; its outputs are the axes that appear in the result."""
    kernel_shape = check_shape("kernel_shape", kernel_shape, least=0)
    axes = kernel_axes(einsum_str)
    if not axes or len(axes) != len(kernel_shape):
        raise ValueError(
            "einsum_str must be an equation of an input and a kernel of this shape, such as "
            f"'ab,bc->ac' for (3, 4); got {shown(einsum_str)} and kernel_shape {kernel_shape}"
        )
    return _made(nnx.Einsum, (einsum_str, kernel_shape), rule, rngs, stock)


def Embed(
    num_embeddings: int, features: int, *, rule: Rule, rngs: nnx.Rngs, **stock: Any
) -> nnx.Embed:
    """`nnx.Embed` with a sparse embedding [num_embeddings, features]."""
    check_whole(num_embeddings=num_embeddings, features=features)
    return _made(nnx.Embed, (num_embeddings, features), rule, rngs, stock, "embedding")


def MultiHeadAttention(
    num_heads: int, in_features: int, *, rule: Rule, rngs: nnx.Rngs, **stock: Any
) -> nnx.MultiHeadAttention:
    """`nnx.MultiHeadAttention` with sparse query, key, value [in, heads, width] and out kernels."""
    check_whole(num_heads=num_heads, in_features=in_features)
    return _made(nnx.MultiHeadAttention, (num_heads, in_features), rule, rngs, stock)


def LSTMCell(
    in_features: int, hidden_features: int, *, rule: Rule, rngs: nnx.Rngs, **stock: Any
) -> nnx.LSTMCell:
    """`nnx.LSTMCell` with eight sparse kernels, two per gate."""
    check_whole(in_features=in_features, hidden_features=hidden_features)
    return _made(nnx.LSTMCell, (in_features, hidden_features), rule, rngs, stock)


def OptimizedLSTMCell(
    in_features: int, hidden_features: int, *, rule: Rule, rngs: nnx.Rngs, **stock: Any
) -> nnx.OptimizedLSTMCell:
    """`nnx.OptimizedLSTMCell` with two sparse kernels [in, 4 hidden] and [hidden, 4 hidden]."""
    check_whole(in_features=in_features, hidden_features=hidden_features)
    return _made(nnx.OptimizedLSTMCell, (in_features, hidden_features), rule, rngs, stock)


def GRUCell(
    in_features: int, hidden_features: int, *, rule: Rule, rngs: nnx.Rngs, **stock: Any
) -> nnx.GRUCell:
    """`nnx.GRUCell` with two sparse kernels [in, 3 hidden] and [hidden, 3 hidden]."""
    check_whole(in_features=in_features, hidden_features=hidden_features)
    return _made(nnx.GRUCell, (in_features, hidden_features), rule, rngs, stock)


def _made(
    kind: Callable[..., Layer],
    sizes: tuple,
    rule: Rule,
    rngs: nnx.Rngs,
    stock: dict[str, Any],
    pattern: str = ".*/kernel",
) -> Layer:
    """A stock layer of these sizes, with a rule on the weights that a pattern matches."""
    check_rngs(rngs)
    layer = kind(*sizes, rngs=rngs, **stock)
    sparsify_in_place(layer, (pattern, rule), rngs=rngs)
    return layer


def _check_sizes(**sizes: int | Sequence[int]) -> None:
    for name, size in sizes.items():
        if is_whole(size):
            check_whole(0, **{name: size})  # type: ignore[arg-type]
        else:
            check_shape(name, size, least=0)
