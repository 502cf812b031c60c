"""Wrong arguments of every public callable: each is refused by name, with what is allowed."""

import re
import traceback
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import jsparse as js
from tests.support.bad_calls import CALLS
from tests.support.bad_inputs import KINDS, Call
from tests.test_import import public_modules

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
PACKAGE = str(Path(js.__file__).parent)
NOT_TRIED = {
    *(
        "Weight",
        "Kernel",
        "Filter",
        "Channel",
        "Head",
        "Group",
        "Each",
        "PerOutput",
        "Whole",
        "WholeModel",
    ),
    *("versions", "Nowhere"),  # these take no arguments
    *("Rule", "Revision", "Control", "Restart", "Schedule", "Shapes", "Plan", "States", "State"),
    *("Learned", "Mask", "Setting", "Revise", "Revised", "Restored", "Round", "Choice", "Picked"),
    *("Loaded", "Costs", "Overlap", "Stability", "Effective", "Structure", "Row", "Summary"),
    *("UnitAxis", "UnitGroup", "UnitGroups", "Use", "Sizes", "Importance"),
    "LAMP",  # a function of what the library made
    *("CorruptCheckpoint", "DamagedModel", "Path", "Point", "SearchStopped", "Found", "Tried"),
    *("Evidence", "Candidate", "Transfer", "Sensitivity"),  # these are made by the library
    *("block_dot", "pallas_dot", "onnx"),  # products inside layers; a package that may be missing
}
REFUSALS = (TypeError, ValueError, OSError, js.CorruptCheckpoint, js.export.DamagedModel)


def complaint(call: Call, name: str, value: Any) -> str:
    """What is wrong with how a wrong argument is answered; empty if nothing is."""
    kind = KINDS[call.kinds[name]]
    try:
        call.function(**call.arguments() | {name: value})
    except REFUSALS as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        words = str(error)
        if not where.startswith(PACKAGE):
            return f"unclear, from {where}: {type(error).__name__}: {words}"
        if not re.search(rf"\b({name}|{name.rstrip('s')}|{kind.also or name})\b", words):
            return f"does not name the argument: {words}"
        if not any(one in words for one in ways_to_show(value)):
            return f"does not say what it got: {words}"
        if not re.search(kind.allowed, words):
            return f"does not say what is allowed ({kind.allowed}): {words}"
        return ""
    except Exception as error:  # any other is a fault
        return f"unclear: {type(error).__name__}: {error}"
    return "silent"


def ways_to_show(value: Any) -> set[str]:
    """Texts of which an error has one to say what it got."""
    parts = list(value.values()) + list(value) if isinstance(value, dict) else []
    parts = list(value) if isinstance(value, list | tuple) else parts
    ways = {repr(value)[:40], str(value)[:40], type(value).__name__}
    ways |= {getattr(value, "__name__", repr(value))}
    ways |= {str(list(getattr(value, "shape", [NotImplemented])))}
    if isinstance(value, list | tuple | dict) and not value:
        ways |= {"none", "nothing", "empty", "no revisions", "no batches", "on one side only"}
    return ways.union(*(ways_to_show(part) for part in parts)) - {"", "()"}


@pytest.mark.parametrize("name", CALLS)
def test_the_good_call_passes_and_every_wrong_argument_is_refused(name: str) -> None:
    call = CALLS[name]
    call.function(**call.arguments())
    found = {
        f"{argument}={value!r}": words
        for argument, kind in call.kinds.items()
        for value in KINDS[kind].wrong
        if (words := complaint(call, argument, value))
    }
    assert found == {}, "\n".join(f"{name}({bad}): {words}" for bad, words in found.items())


def test_every_public_name_is_in_the_table() -> None:
    tried = {id(attrgetter(name)(js)) for name in CALLS}
    missing = [
        f"{module.__name__}.{name}"
        for module in public_modules()
        for name, value in vars(module).items()
        if name[0] != "_" and callable(value) and id(value) not in tried and name not in NOT_TRIED
    ]
    assert missing == []


def test_the_table_is_long() -> None:
    kinds = [kind for call in CALLS.values() for kind in call.kinds.values()]
    assert sum(len(KINDS[kind].wrong) for kind in kinds) > 1000


def lone(rule: js.Rule) -> nnx.Module:
    return js.sparsify(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), ("kernel", rule))


LATER: dict[str, tuple[Callable[[], Any], str]] = {
    "an axis that the weight lacks": (
        lambda: lone(js.Threshold(role=js.Role(outputs=(-7,)))),
        r"names axis -7, but the weight \(3, 4\) has only 2",
    ),
    "a start below the end": (lambda: js.Gradual(density=0.5, start=0.3, last=9), "start=0.3"),
    "masks that are not 0 or 1": (
        lambda: js.revise(optax.sgd(0.1), (".*", js.SET(last=9, every=1))).init(
            {"weight": jnp.ones(2), "mask": jnp.array([0.5, 1.0])}
        ),
        "only 0 and 1",
    ),
    "a checkpoint of what is traced": (
        lambda: jax.eval_shape(lambda x: js.Checkpoints("unused").save(1, {"a": x}), jnp.ones(2)),
        "tree holds a while it is traced",
    ),
    "an empty model": (lambda: js.lamb({"bias": jnp.ones(3)}, 0.1), "no weights of layers"),
}


@pytest.mark.parametrize("case", LATER)
def test_what_only_shows_in_use_is_refused(case: str) -> None:
    call, words = LATER[case]
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_good_curves_of_every_kind_are_taken() -> None:
    curves: tuple[Any, ...] = (
        js.schedule.cubic(1.0, 0.1, 0, 100),
        js.schedule.cubic(1.0, 0.3, 5, 6),
        js.schedule.constant(0.1),
        lambda step: 0.5,
        lambda step: jnp.where(step < 10, 1.0, 0.25),
        lambda step: jax.lax.cond(step < 10, lambda: 1.0, lambda: 0.25),
        optax.linear_schedule(1.0, 0.1, 1000),
    )
    for curve in curves:
        assert js.Movement(density=curve).density is curve
    js.lamb(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), optax.warmup_cosine_decay_schedule(0, 1, 10, 100))


def test_rates_may_be_injected() -> None:
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    made = lambda learning_rate, eps: js.lamb(params, learning_rate, eps=eps)
    tx = optax.inject_hyperparams(made)(learning_rate=0.1, eps=1e-6)
    state = jax.jit(tx.init)(params)
    updates, _ = jax.jit(tx.update)(params, state, params)
    assert float(jnp.abs(updates["kernel"]).max()) > 0
