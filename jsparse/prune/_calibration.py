"""What flows into each weight on calibration data, and pruning in that order, in one sweep.

1. The model is traced on a batch; each layer with a weight to prune adds up a moment of its inputs.
2. The computation is cut where the moment of the first weight is known. That part runs on all
   batches, the weight is pruned, and the next part continues from there: so the second weight sees
   the inputs that the pruned first one gives; and so on, in the order in which layers are called.
3. An operation runs once on each batch, unless it reads a weight that is pruned after it: one that
   several layers share, or several that are calibrated together. Then it runs again.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flax import nnx
from jax import Array

from jsparse._checks import all_finite, check_density
from jsparse._paths import listed, naming
from jsparse._pure import Forward, taken_apart
from jsparse._slots import sparse_parts, state_paths
from jsparse._sparse import Sparse
from jsparse._surgery import Model, hold
from jsparse._values import check_function, check_mapping, check_pattern, each_batch
from jsparse.prune._choice import held_parts
from jsparse.prune._inputs import SEEN, Moment, watch_inputs
from jsparse.prune._sweep import Sweep

Prune = Callable[[str, Sparse, Array], tuple[Array, Array]]
"""From a path, its weight and the moment of its inputs [stack..., groups, of a layer], the new
weight and mask."""
ALONE = ".*"
"""Each weight is calibrated by itself."""


def densities_of(model: nnx.Module, density: Any) -> dict[str, float]:
    """The density of each weight under `Held`, by path, from one number or from numbers by path.

    Raises:
      ValueError: a density outside (0, 1]; paths without a density, or densities without a weight.
    """
    paths = held_parts(model)
    if not isinstance(density, Mapping):
        return dict.fromkeys(paths, check_density(density))
    check_mapping("a fraction, or fractions by path", density=density)
    if odd := sorted(paths.keys() ^ density.keys()):
        what = "has no density for" if odd[0] in paths else "names, where no weight is under Held,"
        raise ValueError(f"density {what} {odd[0]!r}; the weights are {listed(paths)}")
    for path, one in density.items():
        with naming(path):
            check_density(one)
    return dict(density)


def prune_in_order(
    model: Model,
    batches: Iterable[Any],
    forward: Forward,
    moment: Moment,
    prune: Prune,
    together: str = ALONE,
) -> Model:
    """Prune one weight after the other, each with its inputs at that point.

    `prune` gives a weight and its mask new values, from the moment of its inputs; the other
    arguments are those of `wanda`.

    Raises:
      ValueError: a weight of another layer, or of one that is not called; no batch, or an empty
        one; a moment that is not finite; an expression that is invalid or matches no path.
    """
    check_function(forward=forward)
    check_pattern(together=together)
    batches = list(each_batch(batches))
    watched = hold(model)
    watched.eval()
    parts = held_parts(watched)
    order: dict[str, None] = {}
    watch_inputs(watched, moment, order)
    build, variables, _ = taken_apart(watched)

    def measure(variables: dict[str, Any], batch: Any) -> dict[str, Array]:
        copy = build(variables)
        forward(copy, batch)
        return {path: vars(part)[SEEN][...] for path, part in sparse_parts(copy).items()}

    sweep = Sweep(measure, variables, batches)
    if missed := [path for path in parts if path not in order]:
        raise ValueError(
            f"{', '.join(missed)}: no layer that reads it is called; leave it out of the pattern "
            "of sparsify, or give a `forward` that calls it"
        )
    own = state_paths(watched, variables)
    changes = lambda path: [f"{own[id(parts[path])]}/{name}" for name in ("weight", "mask")]
    groups = grouped(order, together=together)
    steps = [(paths, [name for path in paths for name in changes(path)]) for paths in groups]
    for paths, moments in zip(groups, sweep.run(steps), strict=True):
        for path in paths:
            part, seen = parts[path], moments[path]
            if not bool(all_finite(seen)):
                raise ValueError(f"{path}: its inputs are not finite; look for NaN in the batches")
            new = prune(path, part, seen)
            part.weight[...], part.mask[...] = new
            variables.update(zip(changes(path), new, strict=True))
    pruned = hold(model, {path: part.mask[...] for path, part in parts.items()})
    for path, part in held_parts(pruned).items():
        part.weight[...] = parts[path].weight[...]
    return pruned


def grouped(paths: Iterable[str], **patterns: str) -> list[list[str]]:
    """Paths that begin with the same match of a pattern together, in the order of the first ones.

    Args:
      paths: one without a match is a group by itself.
      **patterns: the regular expression, by the name of the argument that holds it.

    Raises:
      ValueError: it matches no path.

    Example:
      >>> grouped(["block/0/up", "block/0/down", "block/1/up", "head"], layers="block/[0-9]")
      [['block/0/up', 'block/0/down'], ['block/1/up'], ['head']]
    """
    ((name, pattern),) = patterns.items()
    groups: dict[tuple[bool, str], list[str]] = {}
    for path in paths:
        found = re.match(pattern, path)
        groups.setdefault((bool(found), found[0] if found else path), []).append(path)
    if not any(matched for matched, _ in groups):
        raise ValueError(
            f"{name}={pattern!r} matches no path; available: {listed(paths)}. It is a regular "
            "expression for the beginning of a path, such as 'blocks/[0-9]+'"
        )
    return list(groups.values())
