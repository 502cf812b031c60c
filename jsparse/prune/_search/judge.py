"""Score and cost of candidates: compiled once for all, or called in Python one model at a time.

Both judges pass the masked model to the user's functions, in the mode in which it was given; masks
are multiplied and no shapes change. `recover` cannot change the candidate's masks.
"""

import contextlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._checks import uncalled_hint
from jsparse._paths import named
from jsparse._pure import taken_apart
from jsparse._slots import check_module, slots, state_paths
from jsparse._sparse import Sparse
from jsparse._surgery import Model, copied, hold
from jsparse._values import is_number, shown
from jsparse.prune._search.layers import Layers
from jsparse.prune._weights import held_masks

Function = Callable[[Any], Any]
"""From the masked model to a number."""
Recover = Callable[[Any, Array], Any]
"""(masked model, key) -> the same model after some repair, such as a few train steps."""
TOGETHER = 64
"""Candidates whose costs one call computes, at most."""


class UserFunctions(NamedTuple):
    """The functions that `search` was given."""

    score: Function
    cost: Function
    recover: Recover


def no_recovery(model: Model, key: Array) -> Model:
    """The model as it is: no recovery."""
    return model


def key_of(key: Array, counts: np.ndarray, n: int) -> Array:
    """The key of a candidate's n-th recovery: the same whenever it is scored."""
    seed = zlib.crc32(np.ascontiguousarray(counts, np.int32).tobytes())
    return jax.random.fold_in(jax.random.fold_in(key, seed), n)


class Compiled:
    """Traces each function once; every candidate runs the same programs."""

    def __init__(self, model: nnx.Module, layers: Layers, functions: UserFunctions, key: Array):
        self.layers, self.key = layers, key
        build, self.variables, _ = taken_apart(model)
        own = state_paths(model, self.variables)
        at = {slot.path: f"{own[id(slot.value)]}/mask" for slot in slots(model, Sparse)}
        masks = {path: self.variables[at[path]] for path in layers.places}
        some_dropped = {path: mask for path, mask in masks.items() if not np.asarray(mask).all()}

        def masked(variables: Any, ranks: Any, counts: Array) -> dict[str, Any]:
            kept = layers.masks(ranks, counts)
            new = {at[path]: one.astype(masks[path].dtype) for path, one in kept.items()}
            for path, mask in ranks["masks"].items():
                new[at[path]] *= mask
            return variables | new

        def judged(
            name: str, function: Function, variables: Any, ranks: Any, counts: Array
        ) -> Array:
            with naming_the_function(name):
                return _traced(function(build(masked(variables, ranks, counts))))

        def priced(variables: Any, ranks: Any, counts: Array, number: Array) -> Array:
            one = lambda n: judged("cost", functions.cost, variables, ranks, counts[n])
            kind = jax.eval_shape(one, number)
            add = lambda n, costs: costs.at[n].set(one(n))
            return jax.lax.fori_loop(0, number, add, jnp.zeros(len(counts), kind.dtype))

        def recovered(variables: Any, ranks: Any, counts: Array, key: Array) -> dict[str, Any]:
            with naming_the_function("recover"):
                after = functions.recover(build(masked(variables, ranks, counts)), key)
                return _variables(after, variables)

        self._build, self._masked = build, masked
        self._ranks = {**layers.ranks, "masks": some_dropped}
        self._cost = jax.jit(priced)
        self._score = jax.jit(partial(judged, "score", functions.score))
        self._recovers, self._recover = functions.recover is not no_recovery, jax.jit(recovered)

    def costs(self, counts: np.ndarray) -> Iterator[float]:
        """The costs of candidates [n, L], one after another."""
        for n in range(0, len(counts), TOGETHER):
            some = counts[n : n + TOGETHER]
            padded = np.pad(some, ((0, TOGETHER - len(some)), (0, 0)))
            found = self._cost(self.variables, self._ranks, padded, np.int32(len(some)))
            for one in np.asarray(found)[: len(some)].tolist():
                yield _checked("cost", one)

    def scores(self, counts: np.ndarray, times: int) -> Iterator[float]:
        """The scores of candidates [n, L], each after so many recoveries."""
        ahead = 1 if self._recovers else len(counts)  # what is recovered has variables of its own
        for n in range(0, len(counts), ahead):
            some = counts[n : n + ahead]
            running = [self._score(self._after(one, times), self._ranks, one) for one in some]
            for one in running:
                yield _checked("score", one)

    def model(self, counts: np.ndarray, times: int) -> Any:
        """The model of one candidate, [L], after so many recoveries."""
        variables = self._after(counts, times)
        return hold(self._build(self._masked(variables, self._ranks, jnp.asarray(counts))))

    def _after(self, counts: np.ndarray, times: int) -> dict[str, Any]:
        variables = self.variables
        for n in range(times if self._recovers else 0):
            variables = self._recover(variables, self._ranks, counts, key_of(self.key, counts, n))
        return variables


class Called:
    """Calls each function in Python, each time on a new model; methods as those of `Compiled`."""

    def __init__(self, model: nnx.Module, layers: Layers, functions: UserFunctions, key: Array):
        self.start, self.layers, self.key = model, layers, key
        self.score, self.cost, self.recover = functions
        self._names = named(nnx.state(model))
        self._kept = jax.jit(layers.masks)

    def costs(self, counts: np.ndarray) -> Iterator[float]:
        for one in counts:
            with naming_the_function("cost"):
                cost = self.cost(self._masked(self.start, one))
            yield _checked("cost", cost)

    def scores(self, counts: np.ndarray, times: int) -> Iterator[float]:
        for one in counts:
            model = self.model(one, times)
            with naming_the_function("score"):
                score = self.score(model)
            yield _checked("score", score)

    def model(self, counts: np.ndarray, times: int) -> Any:
        model = self._masked(self.start, counts)
        for n in range(times if self.recover is not no_recovery else 0):
            with naming_the_function("recover"):
                after = self.recover(model, key_of(self.key, counts, n))
                _variables(after, self._names)
            model = copied(self.start)  # in the mode in which it was given
            nnx.update(model, nnx.state(after))
            model = self._masked(model, counts)
        return model

    def _masked(self, model: Model, counts: np.ndarray) -> Model:
        kept = self._kept(self.layers.ranks, counts)
        masks = held_masks(self.start)
        return hold(model, {path: jnp.where(kept[path], mask, 0) for path, mask in masks.items()})


def _variables(after: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of what recover returned, which are those known."""
    check_module(after, "what recover returns")
    found = named(nnx.state(after))
    if found.keys() != known.keys():
        odd = sorted(found.keys() ^ known.keys())
        raise ValueError(f"it returned a model with other variables: {odd[0]}")
    return found


@contextlib.contextmanager
def naming_the_function(name: str) -> Iterator[None]:
    """Say in errors raised in the block which of the user's functions raised them."""
    try:
        yield
    except Exception as error:
        tracer = isinstance(error, jax.errors.JAXTypeError | jax.errors.UnexpectedTracerError)
        why = str(error).splitlines()[0] if str(error) else ""
        advice = (
            "write it with jax.numpy, or pass traced=False to call it in Python"
            if tracer
            else "it is called with the masked model"
        )
        raise ValueError(f"{name} raised {type(error).__name__}: {why}; {advice}") from error


def _traced(value: Any) -> Array:
    """The number as a traced scalar."""
    try:
        number = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"it must return one number; got {shown(value)}{uncalled_hint(value)}"
        ) from error
    if number.shape or jnp.iscomplexobj(number):
        raise TypeError(f"it must return one number; got {shown(value)}")
    return number


def _checked(name: str, value: Any) -> float:
    """The number as a float."""
    array = np.asarray(value) if hasattr(value, "dtype") else value
    if isinstance(array, np.ndarray) and array.shape == ():
        array = array.item()
    if not is_number(array):
        raise ValueError(f"{name} must return one number; got {shown(value)}{uncalled_hint(value)}")
    number = float(array)
    if not math.isfinite(number):
        advice = "the worst possible number for a model that fails, such as the loss clipped at 10"
        if name == "cost":
            advice = "a number above the budget for a model that cannot be measured"
        raise ValueError(f"{name} must return a finite number; got {number}: return {advice}")
    if name == "cost" and number < 0:
        raise ValueError(f"cost must return a number of 0 or more; got {number}")
    return number
