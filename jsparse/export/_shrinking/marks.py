"""How many features reach a group normalization without weights, from which it has no sizes.

An operation that changes nothing marks its input, by the path of the module, in the traced
computation. What is removed there says how many features are left, and so how many groups.
"""

import functools
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jsparse._slots import walk_modules
from jsparse.export._shrinking.graph import Graph
from jsparse.export._shrinking.liveness import Removal

PREFIX = "jsparse.features:"


def mark_in_place(model: nnx.Module) -> None:
    """Let each GroupNorm without weights mark what it is called with."""
    for path, module in walk_modules(model):
        if isinstance(module, nnx.GroupNorm) and not jax.tree.leaves(nnx.state(module)):
            object.__setattr__(module, "__class__", _marking(type(module), PREFIX + path))


@functools.lru_cache(maxsize=1024)
def _marking(kind: type, mark: str) -> type:
    def call(self: Any, x: jax.Array, *args: Any, **options: Any) -> jax.Array:
        return kind.__call__(self, checkpoint_name(x, mark), *args, **options)

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def marked(model: nnx.Module, graph: Graph, removal: Removal) -> dict[str, int]:
    """How many features remain of each that loses some, by path of the module."""
    norms = {p: m for p, m in walk_modules(model) if isinstance(m, nnx.GroupNorm)}
    found = {}
    for op in graph.all_ops:
        if op.name != "name" or not op.params["name"].startswith(PREFIX):
            continue
        path = op.params["name"].removeprefix(PREFIX)
        features = norms[path].num_groups * norms[path].group_size
        before, left = op.outputs[0].shape[-1], removal.kept_shape(op.outputs[0])[-1]
        if left < before == features:  # under a vmap the last axis may be another one
            found[path] = left
    return found
