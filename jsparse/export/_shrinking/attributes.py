"""The sizes that layers store as attributes, read from their parameters."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from jsparse._bridge import attributes, is_user_code, set_attributes
from jsparse._slots import walk_modules

NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm)
NORMS += (getattr(nnx, "InstanceNorm", nnx.BatchNorm),)  # in newer versions of flax
Attributes = dict[str, dict[str, Any]]  # by path of the module, by name
Mend = Callable[[nnx.Module], Mapping[str, Any]]
"""The sizes that a custom module stores, by attribute; see `shrink`."""


def stock(module: nnx.Module) -> Mapping[str, Any]:
    """No sizes beyond those of stock layers."""
    return {}


def mend_in_place(model: nnx.Module, groups: Mapping[str, int], mend: Mend) -> Attributes:
    """Set attributes to the sizes of the parameters, of stock layers first; return the changes.

    `groups` has how many a grouped convolution has, by path of the kernel, and how many features a
    group normalization without weights, by its path.

    Raises:
      TypeError, ValueError: `mend` gives what is not a size, or not of the module.
    """
    changed: Attributes = {}
    modules = list(walk_modules(model))[::-1]  # inner modules first
    for path, module in modules:
        kernel = f"{path}/kernel" if path else "kernel"
        norm = isinstance(module, nnx.GroupNorm)
        known = groups.get(path, 0) if norm else groups.get(kernel, 1)
        for name, value in sizes(module, known).items():
            if getattr(module, name, value) != value:
                setattr(module, name, value)
                changed.setdefault(path, {})[name] = value
    for path, module in modules:
        given = mend(module)
        _check(given, module, path)
        before = attributes(module)
        new = {name: value for name, value in given.items() if before[name] != value}
        set_attributes(module, new)
        if new:
            changed = merged(changed, {path: new})
    return changed


def set_in_place(model: nnx.Module, values: Attributes) -> None:
    """Set attributes: values by path of the module and name."""
    for path, module in walk_modules(model):
        set_attributes(module, values.get(path, {}))


def merged(first: Attributes, then: Attributes) -> Attributes:
    """Attributes that were set, and others after them."""
    return {path: first.get(path, {}) | then.get(path, {}) for path in {**first, **then}}


def _check(given: Any, module: nnx.Module, path: str) -> None:
    place = f"mend of {path or 'the model'} ({type(module).__name__})"
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{place} gave {type(given).__name__}; return a dict of sizes by attribute, empty for "
            "modules that store none"
        )
    for name, value in given.items():
        if name not in attributes(module):
            known = ", ".join(sorted(sizes_stored(module))) or "none"
            raise ValueError(f"{place} names {name!r}; the sizes that it stores are: {known}")
        if not _is_size(value):
            raise TypeError(f"{place}: {name} is {value!r}; give an int or a tuple of ints")


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_size(one) for one in value)
    return isinstance(value, int) and not isinstance(value, bool)


def sizes_stored(module: nnx.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in attributes(module).items()
        if not name.startswith("_") and _is_size(value)
    }


def numbers_stored(module: nnx.Module) -> dict[str, float]:
    """The numbers that a module stores and may add to a mean; in stock layers the epsilon."""
    own = is_user_code(module)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, float) and (name == "epsilon" or (own and not name.startswith("_")))
    }


def holders(
    model: nnx.Module, paths: Collection[str], number: np.ndarray, widths: Collection[float]
) -> list[tuple[str, nnx.Module, str]]:
    """Where a number is stored that is used before some weights, such as an epsilon.

    Modules that hold one of the weights themselves come first; then those without variables that
    are nearest beside one, as a normalization without a scale. A width that these store must be
    among `widths`. Each is a path, a module and the name of an attribute.
    """
    places = {path.rpartition("/")[0] for path in paths}
    modules = dict(walk_modules(model))
    named = [
        (path, module, name)
        for path, module in modules.items()
        for name, value in numbers_stored(module).items()
        if np.asarray(value, number.dtype) == number
    ]
    if own := [one for one in named if one[0] in places]:
        return own
    alone = [one for one in named if not jax.tree.leaves(nnx.state(one[1]))]
    bare = [one for one in alone if getattr(one[1], "num_features", min(widths)) in widths]
    while places - {""}:
        places = {place.rpartition("/")[0] for place in places}
        if beside := [one for one in bare if one[0].rpartition("/")[0] in places]:
            return beside
    return []


def stored_as(model: nnx.Module, paths: Iterable[str], lengths: Collection[int]) -> list[str]:
    """Attributes of custom modules around variables with such a size: `layers/0.width (64)`."""
    around = {path.rpartition("/")[0] for path in paths}
    found = []
    for path, module in walk_modules(model):
        inside = any(place == path or place.startswith(f"{path}/") or not path for place in around)
        if inside and is_user_code(module):
            found += [
                f"{path}.{name} ({value})" if path else f"{name} ({value})"
                for name, value in sizes_stored(module).items()
                if value in lengths or (isinstance(value, tuple) and set(value) & set(lengths))
            ]
    return found


def sizes(module: nnx.Module, groups: int) -> dict[str, Any]:
    """The sizes that a stock layer stores, by attribute; empty for others.

    Its parameters may have leading axes of a stack; `groups` is that of a convolution, or how many
    features a group normalization without parameters gets.
    """
    match module:
        case nnx.Linear():
            return {"in_features": module.kernel.shape[-2], "out_features": module.kernel.shape[-1]}
        case nnx.LinearGeneral():
            outs, ins = len(module.out_features), len(module.in_features)
            shape = tuple(module.kernel.shape)
            return {"in_features": shape[-outs - ins : -outs], "out_features": shape[-outs:]}
        case nnx.Einsum():
            return _einsum(module)
        case nnx.Conv() | nnx.ConvTranspose():
            return _conv(module, groups)
        case nnx.Embed():
            rows, features = module.embedding.shape[-2:]
            return {"num_embeddings": rows, "features": features}
        case nnx.GroupNorm():
            return _group_norm(module, _features(module) or groups)
        case norm if isinstance(norm, NORMS):
            features = _features(module)
            return {"num_features": features} if features else {}
        case nnx.MultiHeadAttention():
            return _attention(module)
        case nnx.LSTMCell():
            return {"in_features": _ins(module.ii), "hidden_features": _ins(module.hi)}
        case nnx.OptimizedLSTMCell() | nnx.GRUCell() | nnx.SimpleCell():
            return {"in_features": _ins(module.dense_i), "hidden_features": _ins(module.dense_h)}
    return {}


def _ins(layer: Any) -> int:
    return layer.kernel.shape[-2]


def _features(norm: Any) -> int:
    """The number of features of a normalization; 0 if it has no parameters."""
    for name in ("mean", "scale", "bias"):
        variable = getattr(norm, name, None)
        if isinstance(variable, nnx.Variable) and len(variable.shape) > 0:
            return variable.shape[-1]
    return 0


def _group_norm(module: nnx.GroupNorm, features: int) -> dict[str, Any]:
    """Fewer groups of the same size, so that no mean changes; a single group gets narrower."""
    size = features if module.num_groups == 1 else module.group_size
    return {"num_groups": features // size, "group_size": size} if features else {}


def _einsum(module: nnx.Einsum) -> dict[str, Any]:
    found = {"kernel_shape": tuple(module.kernel.shape[-len(module.kernel_shape) :])}
    if module.bias_shape is not None and module.bias is not None:
        found["bias_shape"] = tuple(module.bias.shape[-len(module.bias_shape) :])
    return found


def _conv(module: Any, groups: int) -> dict[str, Any]:
    shape = tuple(module.kernel.shape[-len(module.kernel_size) - 2 :])
    if getattr(module, "transpose_kernel", False):
        return {"kernel_shape": shape, "in_features": shape[-1], "out_features": shape[-2]}
    found = {"kernel_shape": shape, "in_features": shape[-2] * groups, "out_features": shape[-1]}
    if isinstance(module, nnx.Conv):
        found["feature_group_count"] = groups
    return found


def _attention(module: nnx.MultiHeadAttention) -> dict[str, Any]:
    heads, width = module.query.kernel.shape[-2:]
    found = {
        "num_heads": heads,
        "num_kv_heads": module.key.kernel.shape[-2],
        "head_dim": width,
        "qkv_features": heads * width,
        "in_features": module.query.kernel.shape[-3],
        "in_kv_features": module.key.kernel.shape[-3],
        "out_features": module.out.kernel.shape[-1],
    }
    # older versions of flax have fewer
    return {name: value for name, value in found.items() if hasattr(module, name)}


def heads(model: nnx.Module) -> list[list[tuple[str, int]]]:
    """For each attention, the axes of parameters that are as long as its heads are wide."""
    return [
        [(f"{path}/{name}/kernel".lstrip("/"), -1) for name in ("query", "key", "value")]
        for path, module in walk_modules(model)
        if isinstance(module, nnx.MultiHeadAttention)
    ]


def head_dim(path: str) -> str:
    """Why the heads of the attention that holds this weight keep their width."""
    module = "/".join(path.split("/")[:-2]) or "the model"
    return (
        f"queries, keys and values have one width, the attribute head_dim of {module}; "
        "jsparse.prune.units makes all three narrower"
    )
