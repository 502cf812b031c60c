"""A model as a pure function of its variables: what is traced, timed and exported."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
from flax import nnx

from jsparse._paths import named

Model = TypeVar("Model", bound=nnx.Module)


class Pure(NamedTuple):
    """A model taken apart.

    Attributes:
      run: (variables by path, *inputs) -> (output, the same variables after the call).
      variables: arrays by path; a shared one is listed once.
      kinds: the class of each variable, by path.
    """

    run: Callable[..., tuple[Any, dict[str, Any]]]
    variables: dict[str, Any]
    kinds: dict[str, type]


class Apart(NamedTuple):
    """A model and its variables.

    Attributes:
      build: variables by path -> the model.
      variables: arrays by path; a shared one is listed once.
      kinds: the class of each variable, by path.
    """

    build: Callable[[Mapping[str, Any]], Any]
    variables: dict[str, Any]
    kinds: dict[str, type]


def taken_apart(model: nnx.Module) -> Apart:
    """Take the variables out of a model, which stays as it is.

    Example:
      >>> build, variables, _ = taken_apart(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
      >>> build({path: 2 * array for path, array in variables.items()}).kernel.shape
      (4, 3)
    """
    graphdef, state = nnx.split(model)
    variables, structure = named(state), jax.tree.structure(state)
    holders = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    kinds = {path: type(holder) for path, holder in zip(variables, holders, strict=True)}

    def build(given: Mapping[str, Any]) -> Any:
        leaves = [given[path] for path in variables]
        return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))

    return Apart(build, variables, kinds)


def pure(model: nnx.Module, **options: Any) -> Pure:
    """Take a model apart, in the mode it is in; it stays as it is.

    Args:
      model: any NNX module.
      **options: further arguments of each call.

    Example:
      >>> import jax.numpy as jnp
      >>> run, variables, _ = pure(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
      >>> list(variables), run(variables, jnp.ones((2, 4)))[0].shape
      (['bias', 'kernel'], (2, 3))
    """
    build, variables, kinds = taken_apart(model)

    def run(given: Mapping[str, Any], *inputs: Any) -> tuple[Any, dict[str, Any]]:
        merged = build(given)
        output = merged(*inputs, **options)
        after = named(nnx.state(merged))
        return output, {path: after[path] for path in variables}

    return Pure(run, variables, kinds)


def evaluated(model: Model) -> Model:
    """A copy in eval mode."""
    model = nnx.clone(model)
    model.eval()
    return model
