"""Weights that are all zeros: units that they feed are dead, unless they will be trained."""

from collections.abc import Collection, Mapping

from flax import nnx

from jsparse._paths import match
from jsparse._slots import slots
from jsparse._values import shown
from jsparse.export._shrinking.cut import Cut
from jsparse.export._shrinking.graph import Graph
from jsparse.rules._keep import Keep


def alive_paths(model: nnx.Module, keep: str | Collection[str]) -> frozenset[str]:
    """The parameters that the patterns match, with all paths of shared ones.

    Raises:
      TypeError: keep holds something other than strings.
      ValueError: a pattern that matches no parameter.
    """
    patterns = (keep,) if isinstance(keep, str) else tuple(keep)
    if not patterns:
        return frozenset()
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"keep holds patterns of paths, such as ('.*/lora_b',); got {shown(keep)}")
    places = [slot for slot in slots(model) if isinstance(slot.value, nnx.Param)]
    found = match([slot.path for slot in places], [(pattern, Keep()) for pattern in patterns])
    mine = {id(slot.value) for slot in places if slot.path in found}
    return frozenset(slot.path for slot in places if id(slot.value) in mine)


def all_zeros(graph: Graph) -> frozenset[str]:
    """The paths of the weights, of two axes or more, that hold only zeros."""
    weights = [node for node in graph.variables if node.value is not None and len(node.shape) > 1]
    return frozenset(node.path for node in weights if not node.value.any())  # type: ignore[union-attr]


def went(
    zeros: Collection[str], cuts: Mapping[str, Cut], less: Mapping[str, Cut]
) -> dict[str, str]:
    """What is removed only because a weight is all zeros, by path of that weight.

    Args:
      zeros: such weights.
      cuts: what is removed.
      less: what would be removed if they counted as alive.
    """
    return {
        path: f"all values are 0, so {_size(cuts[path])} is left of {cuts[path].shape}; "
        f"keep={path!r} counts it as alive"
        for path in sorted(zeros)
        if path in cuts and cuts[path] != less.get(path)
    }


def _size(cut: Cut) -> tuple[int, ...]:
    return tuple(len(cut.keep.get(axis, range(n))) for axis, n in enumerate(cut.shape))
