"""A Linen module and its variables, out of the NNX module that holds them."""

from typing import Any

from flax import linen as nn
from flax import nnx

from jsparse._bridge import linen_module, linen_variables
from jsparse._slots import check_module
from jsparse._surgery import fold


def linen(model: nnx.bridge.ToNNX) -> tuple[nn.Module, dict[str, Any]]:
    """The Linen module in an `nnx.bridge.ToNNX` and its variables, without rules.

    For a model that is smaller, `apply` of the module takes the sizes of Linen's layers from the
    variables in place of attributes such as `features`; its `init` makes the original sizes, and
    only `apply` knows the new ones, so not `bind`, nor a call inside another Linen module.

    Args:
      model: not changed; a masked weight has zeros.

    Returns:
      (the module, variables by collection), for `module.apply(variables, x)`.

    Raises:
      TypeError: the model is not a ToNNX.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((1, 4))
      >>> model = nnx.bridge.ToNNX(nn.Dense(3), rngs=nnx.Rngs(0)).lazy_init(x)
      >>> module, variables = linen(model)
      >>> module.apply(variables, x).shape
      (1, 3)
    """
    check_module(model)
    if not isinstance(model, nnx.bridge.ToNNX):
        raise TypeError(
            f"model: expected an nnx.bridge.ToNNX, got {type(model).__name__}; for a model of NNX "
            "modules there is no Linen module"
        )
    plain = fold(model)
    return linen_module(plain), linen_variables(plain)
