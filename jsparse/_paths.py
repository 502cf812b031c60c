"""Paths of leaves: writing them, matching patterns against them, and naming them in errors."""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

from jsparse._values import shown

Ruled = TypeVar("Ruled")
WHOLE = "pattern is a regular expression for the whole path, such as '.*/kernel'"


def match(names: Iterable[str], rules: Sequence[tuple[str, Ruled]]) -> dict[str, Ruled]:
    """For each path, the first rule whose pattern matches the whole path.

    A path is also tried with a slash in front, so ".*/kernel" also finds a top-level kernel. Pairs
    without a rule are refused, and patterns that match nothing.
    """
    check_pairs(rules, "rule", "role", "Threshold(alpha=5e-4)")
    chosen: dict[str, Ruled] = {}
    for pattern, choice in rules:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"pattern {pattern!r} is not a regular expression: {error}; a {WHOLE}"
            ) from error
        found = [n for n in names if expression.fullmatch(n) or expression.fullmatch("/" + n)]
        if not found:
            raise ValueError(_no_match(pattern, names))
        for name in found:
            chosen.setdefault(name, choice)
    return chosen


def check_pairs(given: Sequence[Any], kind: str, member: str, example: str) -> None:
    """Refuse anything but pairs of a pattern and an object of a kind, which has this member."""
    pair = f'(".*/kernel", {example})'
    if not given:
        raise ValueError(f"{kind}s: none given; pass pairs such as {pair}")
    for one in given:
        if not (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str)):
            raise ValueError(f"{kind}s: each is a pair such as {pair}; got {shown(one)}")
        if isinstance(one[1], type) or not hasattr(one[1], member):
            raise TypeError(
                f"{kind}s: {shown(one[1])} of {one[0]!r} is not a {kind}; pass an instance, such "
                f"as {example}"
            )


def pairs(given: Sequence[Any]) -> tuple[Any, ...]:
    """Pairs of a pattern and a rule, also where one list or dict of them is given.

    Example:
      >>> pairs([{"a": 1, "b": 2}]), pairs([[("a", 1)]]), pairs([("a", 1)])
      ((('a', 1), ('b', 2)), (('a', 1),), (('a', 1),))
    """
    whole = given[0] if len(given) == 1 else given
    if isinstance(whole, Mapping):
        return tuple(whole.items())
    nested = isinstance(whole, list) or (
        isinstance(whole, tuple) and all(isinstance(one, tuple) for one in whole)
    )
    return tuple(whole if nested else given)


def _no_match(pattern: str, names: Iterable[str]) -> str:
    paths = list(names)
    plain = re.sub(r"[\\^$.*+?()\[\]{}|]", "", pattern).strip("/")
    near = [p for p in paths if plain and plain.lower() in p.lower()]
    near += [p for p in difflib.get_close_matches(plain, paths, 5, 0.4) if p not in near]
    what, found = ("nearest", near) if near else ("available", paths)
    return f"pattern {pattern!r} matches no parameter; {what}: {listed(found)}. A {WHOLE}"


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Prefix errors raised in the block with the path of a parameter."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # not type(error): some of JAX's own exceptions take other arguments than a message
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{path}: {error}") from error


def path_of(keys: tuple) -> str:
    """A leaf's path, without the attribute in which an NNX variable stores its array."""
    inside = [jax.tree_util.GetAttrKey(name) for name in ("value", "raw_value")]
    return joined(keys[:-1] if keys and keys[-1] in inside else keys)


def joined(keys: tuple) -> str:
    """A leaf's path: its keys joined by slashes."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, in order; two with the same path are refused.

    Example:
      >>> named({"a": {"b": 1, "c": [2.0]}})
      {'a/b': 1, 'a/c/0': 2.0}
    """
    leaves: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_of(keys)
        if name in leaves:
            raise ValueError(f"two leaves have the path {name!r}; rename a key with a slash")
        leaves[name] = leaf
    return leaves


def map_by_path(function: Callable, tree: Any, *rest: Any, is_leaf: Any = None) -> Any:
    """`jax.tree.map` of a function that is given the path of each leaf first.

    Example:
      >>> map_by_path(lambda path, leaf: f"{path} {leaf}", {"a": {"b": 1, "c": [2.0]}})
      {'a': {'b': 'a/b 1', 'c': ['a/c/0 2.0']}}
    """
    at = lambda keys, *leaves: function(path_of(keys), *leaves)
    return jax.tree_util.tree_map_with_path(at, tree, *rest, is_leaf=is_leaf)


def listed(names: Iterable[Any], most: int = 8) -> str:
    """Names for an error, separated by commas: the first few, and how many more there are.

    Example:
      >>> listed(["a", "b", "c"], 2), listed([])
      ('a, b and 1 more', 'none')
    """
    found = list(map(str, names))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return (", ".join(found[:most]) or "none") + more
