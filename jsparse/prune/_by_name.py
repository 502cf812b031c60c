"""Which groups of units are chosen, by patterns for their names."""

import re
from collections.abc import Sequence
from typing import TypeVar

from jsparse._paths import listed, match
from jsparse.export._shrinking.groups import UnitGroups

Value = TypeVar("Value")


def chosen_groups(
    groups: UnitGroups, given: Sequence[tuple[str, Value]], name: str, verb: str
) -> dict[str, Value]:
    """What each group is given, by name, for groups that can shrink.

    Args:
      groups: of the model.
      given: pairs of a pattern for names and a value; the first match wins.
      name: of the argument that holds them.
      verb: what is done with them, for errors.

    Raises:
      ValueError: a pattern that matches no group that can shrink.
    """
    free = {group.name: group for group in groups if not group.held}
    if not free:
        raise ValueError(f"groups has none that can shrink, so there is nothing to {verb}")
    for pattern, _ in given:
        if not any(re.fullmatch(pattern, at) for one in free for at in (one, f"/{one}")):
            raise ValueError(
                f"{name}: {pattern!r} matches no group that can shrink, of which there are "
                f"{listed(free)}; it is a regular expression for the whole name, such as "
                "'.*/kernel:.*'"
            )
    return match(free, given)
