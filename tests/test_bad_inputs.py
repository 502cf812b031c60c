"""Wrong arguments of every public callable: each is refused by name, with what is allowed."""

import re
import traceback
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import jsparse as js
from tests.support.bad_calls import CALLS
from tests.support.bad_inputs import KINDS, Call
from tests.test_import import public_modules

PACKAGE = str(Path(js.__file__).parent)
NOT_TRIED = {
    *("Weight", "Kernel", "Filter", "Channel", "Head", "Each", "PerOutput", "Whole", "WholeModel"),
    *("versions", "Nowhere"),  # these take no arguments
    *("Rule", "Revision", "Control", "Restart", "Schedule", "Shapes", "Plan", "States", "State"),
    *("Learned", "Mask", "Setting", "Revise", "Revised", "Restored", "Round", "Choice", "Picked"),
    *("Loaded", "Costs", "Overlap", "Stability", "Effective", "Structure", "Row", "Summary"),
    *("CorruptCheckpoint", "DamagedModel"),  # these are made by the library
    *("block_dot", "pallas_dot", "onnx"),  # products inside layers; a package that may be missing
}
REFUSALS = (TypeError, ValueError, OSError, js.CorruptCheckpoint, js.export.DamagedModel)


def complaint(call: Call, name: str, value: Any) -> str:
    """What is wrong with how a wrong argument is answered; empty if nothing is."""
    kind = KINDS[call.kinds[name]]
    try:
        call.function(**call.good | {name: value})
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


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("name", CALLS)
def test_the_good_call_passes_and_every_wrong_argument_is_refused(name: str) -> None:
    call = CALLS[name]
    call.function(**call.good)
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
