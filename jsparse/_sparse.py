"""`Sparse`: a module that stands where a Param stood, and reads as its masked weight."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.nnx.spmd import get_var_pspec
from jax import Array
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jsparse._sharding import follow, followed, padded, shards, where_is
from jsparse.rules._rule import Rule, State, grown, over_stack, settled, stacked_cost, stacked_init


class Learned(nnx.Param):
    """State of a rule that gradients train: thresholds, logits of gates."""


class Mask(nnx.Variable):
    """A stored mask: 1 kept, 0 not. A float leaf, so that `jax.grad` over a whole model works."""


class Setting(nnx.Variable):
    """A number that events and controls change, never a gradient: alpha, a temperature."""


KINDS = {"mask": Mask}
SHARDING = ("out_sharding", "sharding_names")  # where flax 0.12 and 0.11 keep the names of axes
NAMES = (tuple, list, PartitionSpec)


class Sparse(nnx.Module):
    """A weight and the rule that decides which of it counts; stands in place of an `nnx.Param`.

    Stock layers read `self.kernel[...]` or `self.kernel.value`; both answer with the masked weight,
    as do arithmetic, indexing and the attributes of an array. Nothing is written in a forward pass.
    Leading axes beyond those of one layer (vmapped or scanned modules) are mapped over.
    `model.eval()` makes rules that draw their masks deterministic, `model.train()` lets them draw.

    Args:
      weight: the Param to stand for; kept, not copied, with its metadata.
      rule: which weights count.
      key: for rules whose state starts at random.

    Attributes:
      weight: the dense weight, an nnx.Param.
      rule: the rule; static.
      reparameterised: whether the Param holds something else than the dense weight.
      deterministic: whether nothing is drawn; `train`, `eval` and `nnx.view` set it.
      (state): each entry of the rule's state, by its name: Learned, Mask or Setting.
    """

    def __init__(self, weight: nnx.Param, rule: Rule, *, key: Array):
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(weight)):
            raise TypeError(
                "the weight is abstract, without numbers; sparsify within what makes the model: "
                "nnx.eval_shape(lambda: sparsify(make(), ...))"
            )
        self.weight = weight
        self.rule = rule
        self.layer_ndim = weight.ndim - rule.role.stack
        self.deterministic = False
        state = stacked_init(rule, weight[...], key)
        state = follow(grown(rule, weight[...]), rule.role.stack, state, _where(weight))
        names = _names(rule, weight, state)
        self.reparameterised = "weight" in state
        if self.reparameterised:
            weight[...] = state.pop("weight")
        self.state_names = tuple(state)
        for name, value in state.items():
            kind = Learned if name in rule.learned else KINDS.get(name, Setting)
            # replaced, or a Variable with names would refuse to be made outside of a mesh
            setattr(self, name, kind(value).replace(value, **names.get(name, {})))

    @property
    def state(self) -> State:
        """The arrays of the rule's state, by name."""
        return {name: getattr(self, name)[...] for name in self.state_names}

    def set_state(self, state: State) -> None:
        """Store new values in the state's variables."""
        for name, value in state.items():
            getattr(self, name)[...] = value

    def set_view(self, deterministic: bool | None = None) -> None:
        """What `nnx.view` calls, as it does for `nnx.Dropout`."""
        if deterministic is not None:
            self.deterministic = deterministic

    def read(self) -> Array:
        """What a layer reads: the masked weight, [...] as the weight."""
        return self._map(self.rule.apply)(self.weight[...], self._seen)

    def read_mask(self) -> Array:
        """The mask, [...] as the weight: 1 kept, 0 not."""
        return self._map(self.rule.mask)(self.weight[...], self._seen)

    def read_final(self) -> Array:
        """What a layer reads when nothing is drawn, [...] as the weight."""
        return self._map(self.rule.apply)(self.weight[...], settled(self.state))

    def read_final_mask(self) -> Array:
        """The mask when nothing is drawn, [...] as the weight."""
        return self._map(self.rule.mask)(self.weight[...], settled(self.state))

    def score(self) -> Array:
        """What competes, [stack..., grid of units]; for rules whose units do."""
        return self._map(self.rule.score)(self.weight[...], self.state)  # type: ignore[attr-defined]

    def cost(self) -> Array:
        """What the rule adds to the loss, []."""
        return stacked_cost(self.rule, self.state, self._stack)

    def advanced(self) -> State:
        """The rule's state after the events of a train step."""
        return self._map(self.rule.advance)(self.weight[...], self.state)

    @property
    def _seen(self) -> State:
        """The state that the mask depends on."""
        state = self.state
        return settled(state) if self.deterministic else state

    @property
    def _stack(self) -> int:
        return self.weight.ndim - self.layer_ndim

    def _map(self, method: Callable) -> Callable:
        return over_stack(method, self._stack)

    # The interface of a Param, answered with the masked weight.

    @property
    def value(self) -> Array:
        """The masked weight; assigning sets the dense weight."""
        return self.read()

    @value.setter
    def value(self, value: Array) -> None:
        if value.shape != self.weight.shape:
            raise ValueError(f"got shape {value.shape}; the weight has {self.weight.shape}")
        self[...] = value

    def get_value(self) -> Array:
        """The masked weight."""
        return self.read()

    def __getitem__(self, index: Any) -> Array:
        return self.read()[index]

    def __setitem__(self, index: Any, value: Array) -> None:
        if self.reparameterised:
            raise ValueError(
                f"{type(self.rule).__name__} holds a parameter in place of the weight; set the "
                "weight before sparsify, or this parameter through .weight"
            )
        self.weight[index] = value

    def __jax_array__(self) -> Array:
        return self.read()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.read(), dtype=dtype)

    def __len__(self) -> int:
        return len(self.weight[...])

    def __iter__(self) -> Iterator[Array]:
        return iter(self.read())

    def __contains__(self, item: Any) -> bool:
        return item in self.read()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(jax.Array, name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        # shape and type are the weight's: no need to compute the mask for them
        light = name in ("shape", "dtype", "ndim", "size")
        return getattr(vars(self)["weight"] if light else self.read(), name)


def _where(weight: nnx.Param) -> NamedSharding:
    """How the weight lies; under a jit on an Auto mesh, where that does not show, as named."""
    where, named = where_is(weight[...]), _on_mesh(weight)
    hidden = isinstance(where.mesh, AbstractMesh) and not any(where.spec)
    if not hidden or AxisType.Explicit in where.mesh.axis_types:
        return where
    known = all(shards(name, where.mesh) for name in named)
    return NamedSharding(where.mesh, PartitionSpec(*named) if known else PartitionSpec())


def _names(rule: Rule, weight: nnx.Param, state: State) -> dict[str, dict[str, Any]]:
    """Metadata by entry of the state: the names of its axes, where the weight's have some."""
    metadata = weight.get_metadata()
    mesh, named = metadata.get("mesh") or where_is(weight[...]).mesh, _on_mesh(weight)
    if not named:
        return {}

    def fits(axis: int, n: int) -> bool:
        devices = shards(named[axis], mesh)
        return n == weight.shape[axis] or (devices > 0 and n % devices == 0)

    (kind,) = [kind for kind in SHARDING if kind in metadata]
    names = padded(metadata[kind], weight.ndim)
    specs = followed(grown(rule, weight[...]), rule.role.stack, names, state, fits)
    also = {name: metadata[name] for name in ("mesh", "sharding_rules") if name in metadata}
    return {name: {kind: spec} | also for name, spec in specs.items() if any(spec)}


def _on_mesh(weight: nnx.Param) -> tuple:
    """The axes of a mesh that the names of the weight's axes stand for; () if it has no names."""
    metadata = weight.get_metadata()
    given = [metadata[kind] for kind in SHARDING if isinstance(metadata.get(kind), NAMES)]
    return padded(get_var_pspec(weight) or (), weight.ndim) if given and any(given[0]) else ()


def _operator(name: str) -> Callable:
    def operator(self: Sparse, *others: Any) -> Array:
        others = tuple(o.read() if isinstance(o, Sparse) else o for o in others)
        return getattr(self.read(), name)(*others)

    operator.__name__ = name
    return operator


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul"):
    setattr(Sparse, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(Sparse, f"__r{_name}__", _operator(f"__r{_name}__"))
for _name in ("neg", "pos", "abs", "lt", "le", "gt", "ge"):
    setattr(Sparse, f"__{_name}__", _operator(f"__{_name}__"))
