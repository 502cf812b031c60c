"""Where the state of a rule is placed: sharded like its weight, along axes with the same names."""

from typing import Any

from flax import nnx
from flax.nnx.spmd import get_var_pspec
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jsparse._sharding import Grown, follow, followed, padded, shards, where_is
from jsparse.rules._rule import Rule, State
from jsparse.rules._stacked import shapes_if_doubled

SHARDING = ("out_sharding", "sharding_names")  # names of axes in flax 0.12 and in 0.11
NAMES = (tuple, list, PartitionSpec)


def _where(weight: nnx.Param) -> NamedSharding:
    """The sharding of the weight; under jit on an Auto mesh, which hides it, the one it names."""
    where, named = where_is(weight[...]), _on_mesh(weight)
    hidden = isinstance(where.mesh, AbstractMesh) and not any(where.spec)
    if not hidden or AxisType.Explicit in where.mesh.axis_types:
        return where
    known = all(shards(name, where.mesh) for name in named)
    return NamedSharding(where.mesh, PartitionSpec(*named) if known else PartitionSpec())


def placed(weight: nnx.Param, rule: Rule, state: State) -> tuple[State, dict[str, dict[str, Any]]]:
    """The state, sharded like the weight, and by entry the metadata that names its axes."""
    where, named, stack = _where(weight), _on_mesh(weight), rule.role.stack
    if where.mesh.empty and not named:
        return state, {}
    longer = shapes_if_doubled(rule, weight[...])
    if not where.mesh.empty:
        state = follow(longer, stack, state, where)
    return state, _names(weight, named, longer, stack, state) if named else {}


def _names(
    weight: nnx.Param, named: tuple, longer: Grown, stack: int, state: State
) -> dict[str, dict[str, Any]]:
    """Metadata by entry of the state: the names of its axes, taken from the weight's."""
    metadata = weight.get_metadata()
    mesh = metadata.get("mesh") or where_is(weight[...]).mesh

    def fits(axis: int, n: int) -> bool:
        devices = shards(named[axis], mesh)
        return n == weight.shape[axis] or (devices > 0 and n % devices == 0)

    (kind,) = [kind for kind in SHARDING if kind in metadata]
    specs = followed(longer, stack, padded(metadata[kind], weight.ndim), state, fits)
    also = {name: metadata[name] for name in ("mesh", "sharding_rules") if name in metadata}
    return {name: {kind: spec} | also for name, spec in specs.items() if any(spec)}


def _on_mesh(weight: nnx.Param) -> tuple:
    """The mesh axes that the names of the weight's axes refer to; () if it has no names."""
    metadata = weight.get_metadata()
    given = [metadata[kind] for kind in SHARDING if isinstance(metadata.get(kind), NAMES)]
    return padded(get_var_pspec(weight) or (), weight.ndim) if given and any(given[0]) else ()
