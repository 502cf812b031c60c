"""A model as a pure function of its variables: what is traced, timed and exported."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._paths import named
from jsparse._slots import check_module
from jsparse._values import is_whole, shown
from jsparse._variables import stored

Model = TypeVar("Model", bound=nnx.Module)
ARRAYS = jax.Array | np.ndarray | jax.ShapeDtypeStruct
FAILURES = (TypeError, ValueError, AttributeError, LookupError)
"""What a model raises that is called with something else than it takes."""
Forward = Callable[[Any, Any], Any]
"""forward(model, batch): runs the model."""


class SizesByName(TypeError):
    """An error of a model that got sizes by name; its cause is what the model raised."""


class Pure(NamedTuple):
    """A model taken apart.

    Attributes:
      run: variables by path -> the model, of `taken_apart`; of `pure` a call of it,
        (variables by path, *inputs) -> (output, the same variables after the call).
      variables: arrays by path; a shared one is listed once.
      kinds: the class of each variable, by path.
    """

    run: Callable[..., Any]
    variables: dict[str, Any]
    kinds: dict[str, type]


def taken_apart(model: nnx.Module) -> Pure:
    """Take the variables, of one array each, out of a model, which stays as it is.

    Example:
      >>> build, variables, _ = taken_apart(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
      >>> build({path: 2 * array for path, array in variables.items()}).kernel.shape
      (4, 3)
    """
    graphdef, state = nnx.split(model)
    variables, structure = named(state), jax.tree.structure(state)
    holders = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    for holder in holders:
        if isinstance(holder, nnx.Variable) and len(jax.tree.leaves(holder)) != 1:
            _refuse_several(state, holder)
    kinds = {path: type(holder) for path, holder in zip(variables, holders, strict=True)}

    def build(given: Mapping[str, Any]) -> Any:
        leaves = [given[path] for path in variables]
        return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))

    return Pure(build, variables, kinds)


def _refuse_several(state: Any, holder: nnx.Variable) -> None:
    same = jax.tree.map(lambda leaf: leaf is holder, state, is_leaf=lambda leaf: leaf is holder)
    path = next(path for path, found in named(same).items() if found is True)
    raise TypeError(
        f"{path} holds a {type(stored(holder)).__name__}, and a variable must hold one array; "
        "store a dense one, such as .todense() of a sparse array, whose zeros shrink and pack "
        "remove"
    )


def pure(model: nnx.Module, **options: Any) -> Pure:
    """A model as a function of its variables, in the mode it is in; it stays as it is.

    The options are further arguments of each call.

    Example:
      >>> run, variables, _ = pure(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
      >>> list(variables), run(variables, jnp.ones((2, 4)))[0].shape
      (['bias', 'kernel'], (2, 3))
    """
    check_module(model)
    build, variables, kinds = taken_apart(model)

    def run(given: Mapping[str, Any], *inputs: Any) -> tuple[Any, dict[str, Any]]:
        merged = build(given)
        output = merged(*inputs, **options)
        after = named(nnx.state(merged))
        return output, {path: after[path] for path in variables}

    return Pure(run, variables, kinds)


def shaped(inputs: tuple) -> tuple:
    """The inputs, with float32 shapes instead of tuples of sizes; negative sizes are refused."""
    if wrong := [one for one in inputs if is_sizes(one) and min(one) < 0]:
        raise ValueError(f"a shape in place of an input has sizes of 0 or more; got {wrong[0]}")
    return tuple(jax.ShapeDtypeStruct(one, np.float32) if is_sizes(one) else one for one in inputs)


def is_sizes(value: Any) -> bool:
    """Whether this is a shape with at least one axis."""
    return isinstance(value, tuple) and bool(value) and all(map(is_whole, value))


def examples(inputs: Any) -> Any:
    """The inputs, with arrays where only a shape is given: normal numbers, zeros of other types."""

    def made(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        normal = np.random.default_rng(0).standard_normal(leaf.shape, np.float32)
        return jnp.asarray(normal).astype(leaf.dtype)  # jax.random would compile for each shape

    return jax.tree.map(made, inputs)


def by_position(model: Model, inputs: tuple, options: Mapping[str, Any]) -> tuple[Model, tuple]:
    """A model called by position only, even where it takes arguments by name, and the inputs.

    The inputs are arrays or their shapes. If there are options, the model is a copy: arrays among
    them are added to the inputs, and the others are the same at each call.
    """
    check_module(model)
    holds = lambda value: any(isinstance(leaf, ARRAYS) for leaf in jax.tree.leaves(value))
    named = {name: value for name, value in options.items() if holds(value)}
    inputs = (*shaped(inputs), *named.values())
    if not options:
        return model, inputs
    fixed = tuple((name, value) for name, value in options.items() if name not in named)
    try:
        kind = _positional(type(model), tuple(named), fixed)
    except TypeError:  # an option cannot be hashed
        kind = _positional.__wrapped__(type(model), tuple(named), fixed)
    copy = nnx.clone(model)
    object.__setattr__(copy, "__class__", kind)
    return copy, inputs


@contextlib.contextmanager
def settings(**own: Any) -> Iterator[None]:
    """Say in errors of the block that an input named like a setting is passed by position."""
    try:
        yield
    except (TypeError, ValueError) as error:
        arrays = [n for n, value in own.items() if isinstance(value, ARRAYS) and value.ndim]
        if not arrays:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error}; pass an input of the model with that name by position") from error


def by_name(model: Model) -> Model:
    """The model itself, with its original call, after `by_position`."""
    kind = getattr(type(model), "_by_name", None)
    if kind is not None:
        object.__setattr__(model, "__class__", kind)
    return model


@functools.cache
def _positional(kind: type, names: tuple[str, ...], fixed: tuple[tuple[str, Any], ...]) -> type:
    """A class of modules whose last arguments have these names; other arguments are fixed."""
    sized = [f"{name}={value}" for name, value in fixed if is_sizes(value)]

    def call(self: Any, *args: Any) -> Any:
        first = len(args) - len(names)
        named = dict(zip(names, args[first:], strict=True), **dict(fixed))
        try:
            return kind.__call__(self, *args[:first], **named)  # type: ignore[operator]
        except FAILURES as error:
            if not sized:
                raise
            raise SizesByName(
                f"{error}; it got {', '.join(sized)} by name, which is passed on as it is: for an "
                "array of such a shape give the shape by position, or a jax.ShapeDtypeStruct"
            ) from error

    same = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), same | {"__call__": call, "_by_name": kind})


@contextlib.contextmanager
def calling(name: str, inputs: Any) -> Iterator[None]:
    """Add the inputs of a model to errors raised in the block."""
    try:
        yield
    except FAILURES as error:
        given = ", ".join(map(shown, jax.tree.leaves(inputs))) or "nothing"
        listed = inputs if isinstance(inputs, tuple) else ()
        if sizes := [one for one in listed if isinstance(one, list) and is_sizes(tuple(one))]:
            given += f" (for a shape give a tuple: {tuple(sizes[0])})"
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must be what a call of the model takes; it fails with {given}: {error}"
        ) from error


def call(model: Any, batch: Any) -> Any:
    """Run a model whose input is the batch itself."""
    return model(batch)


def evaluated(model: Model) -> Model:
    """A copy in eval mode."""
    check_module(model)
    model = nnx.clone(model)
    model.eval()
    return model
