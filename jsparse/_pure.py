"""A model as a pure function of its variables: what is traced, timed and exported."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
from flax import nnx

from jsparse._paths import named
from jsparse._slots import check_module
from jsparse._values import shown

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
    check_module(model)
    graphdef, state = nnx.split(model)
    variables, structure = named(state), jax.tree.structure(state)
    holders = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    kinds = {path: type(holder) for path, holder in zip(variables, holders, strict=True)}

    def run(given: Mapping[str, Any], *inputs: Any) -> tuple[Any, dict[str, Any]]:
        state = jax.tree.unflatten(structure, [given[path] for path in variables])
        merged: Any = nnx.merge(graphdef, state)
        output = merged(*inputs, **options)
        after = named(nnx.state(merged))
        return output, {path: after[path] for path in variables}

    return Pure(run, variables, kinds)


@contextlib.contextmanager
def calling(name: str, inputs: Any) -> Iterator[None]:
    """Say in errors raised in the block which inputs a model was called with.

    Args:
      name: of the argument that holds them.
      inputs: tree of arrays.
    """
    try:
        yield
    except (TypeError, ValueError, IndexError) as error:
        given = ", ".join(map(shown, jax.tree.leaves(inputs))) or "nothing"
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must be what a call of the model takes; it fails with {given}: {error}"
        ) from error


def evaluated(model: Model) -> Model:
    """A copy in eval mode."""
    check_module(model)
    model = nnx.clone(model)
    model.eval()
    return model
