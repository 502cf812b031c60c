"""JSON changed at random, and what may come of reading it."""

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jsparse._storage.files import CorruptCheckpoint
from jsparse.export import DamagedModel

VALUES = [None, True, -1, 0, 1, 3, 10**9, 2**70, 0.5, 1e308, float("nan"), float("-inf"), "", "a"]
VALUES += ["../outside", "/outside", "a\0b", "\ud800", "x" * 5000, "data/0.json", [], {}, [[]]]
VALUES += [{"": {}}, [1, "a"], [1, 2, 3], {"a": [0, ""]}]
NAMES = ["", ".", "..", "../outside", "/outside", "data/../data/0.json", "a\0b", "\ud800", "data"]
NAMES += ["x" * 5000, "data/1.json", "data/00.bin", "data/99999999999.json", "sha256"]


def mutated(content: Any, choice: random.Random) -> Any:
    """The JSON with one or two of its values or names changed, removed or added."""
    content = copy.deepcopy(content)
    for _ in range(choice.randint(1, 2)):
        places = list(holders(content))
        if not places:
            return choice.choice(VALUES)
        holder, key = choice.choice(places)
        kind = choice.random()
        if kind < 0.6:
            holder[key] = copy.deepcopy(choice.choice(VALUES))
        elif kind < 0.8 and isinstance(holder, dict):
            holder[choice.choice(NAMES)] = holder.pop(key)
        else:
            del holder[key]
    return content


def holders(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in the JSON: the object or list, and the name or number in it."""
    inside = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(inside):
        yield content, key
        if isinstance(value, dict | list):
            yield from holders(value)


def check(path: Path, call: Callable[[], object]) -> bool:
    """Whether the call passed; an error must be one of ours, and must name the file."""
    try:
        call()
    except (ValueError, CorruptCheckpoint, DamagedModel) as error:
        assert type(error) in (ValueError, CorruptCheckpoint, DamagedModel), repr(error)
        assert str(path) in str(error), repr(error)
        return False
    return True
