"""`Sparse`: a drop-in replacement for `nnx.Param` that reads as the masked weight."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, core

from jsparse._placing import placed
from jsparse._values import check_is, check_key, shown
from jsparse._variables import Learned, Mask, Setting, Unseen, check_together, write
from jsparse.rules._rule import Rule, State, rival, without_draw
from jsparse.rules._stacked import (
    over_stack,
    stacked_advance,
    stacked_apply,
    stacked_cost,
    stacked_init,
    stacked_mask,
)

COSTS_READ: set[Rule] = set()
"""Rules whose cost was read in a trace: `Optimizer` warns if a loss seems to lack it."""
LIGHT = ("shape", "dtype", "ndim", "size")  # the mask does not change them


class Sparse(nnx.Module):
    """A weight and the rule that masks it: a drop-in replacement for an `nnx.Param`.

    Stock layers read `self.kernel[...]` or `self.kernel.value`. Both return the masked weight, as
    do arithmetic, indexing and the attributes of an array. A forward pass writes nothing. Leading
    axes beyond those of one layer (vmapped or scanned modules) are mapped over. `model.train()`
    makes stochastic rules sample their masks, `model.eval()` makes them deterministic.

    Args:
      weight: the Param to replace; it is kept, not copied, and so is its metadata.
      rule: which weights are kept.
      key: for rules with a random initial state.

    Attributes:
      weight: the dense weight, an nnx.Param.
      rule: the rule; static.
      reparameterized: whether the Param holds something other than the dense weight.
      deterministic: whether sampling is off; `train`, `eval` and `nnx.view` set it.
      (state): each entry of the rule's state, by its name: Learned, Mask or Setting.
    """

    qwix_path = Unseen()

    def __init__(self, weight: nnx.Param, rule: Rule, *, key: Array):
        check_is(nnx.Variable, "an nnx.Param", weight=weight)
        check_key(key=key)
        if isinstance(rule, type) or not hasattr(rule, "apply"):
            raise TypeError(f"rule must be a rule, such as Threshold(); got {shown(rule)}")
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(weight)):
            raise TypeError(
                "the weight is abstract, without values; call sparsify inside the function that "
                "makes the model: nnx.eval_shape(lambda: sparsify(make(), ...))"
            )
        self.weight = weight
        self.rule = rule
        self.layer_ndim = weight.ndim - rule.role.stack
        self.deterministic = False
        state, names = placed(weight, rule, stacked_init(rule, weight[...], key))
        self.reparameterized = "weight" in state
        if self.reparameterized:
            weight[...] = state.pop("weight")
        self.state_names = tuple(state)
        for name, value in state.items():
            kind = Learned if name in rule.learned else Mask if name == "mask" else Setting
            # by replace: a Variable with names cannot be created outside a mesh
            setattr(self, name, kind(value).replace(value, **names.get(name, {})))

    @property
    def state(self) -> State:
        """The arrays of the rule's state, by name."""
        return {name: getattr(self, name)[...] for name in self.state_names}

    def set_state(self, state: State) -> None:
        """Store new values in the state's variables."""
        for name, value in state.items():
            write(getattr(self, name), value)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Called by `nnx.view`, as for `nnx.Dropout`."""
        if deterministic is not None:
            self.deterministic = deterministic

    def read(self) -> Array:
        """The masked weight, which the layer reads: [...] like the weight."""
        return stacked_apply(self.rule, self._stack, self.weight[...], self._seen)

    def read_mask(self) -> Array:
        """The mask, [...] like the weight: 1 kept, 0 dropped."""
        return stacked_mask(self.rule, self._stack, self.weight[...], self._seen)

    def read_final(self) -> Array:
        """The masked weight without sampling, as in eval mode: [...] like the weight."""
        return stacked_apply(self.rule, self._stack, self.weight[...], self._final)

    def read_final_mask(self) -> Array:
        """The mask without sampling, as in eval mode: [...] like the weight."""
        return stacked_mask(self.rule, self._stack, self.weight[...], self._final)

    def score(self) -> Array:
        """The scores of the units, [stack..., grid of units]; for rules whose units compete."""
        return over_stack(rival(self.rule).score, self._stack)(self.weight[...], self.state)

    def cost(self) -> Array:
        """The term that the rule adds to the loss, []."""
        if any(isinstance(value, core.Tracer) for value in self.state.values()):
            COSTS_READ.add(self.rule)
        return stacked_cost(self.rule, self.state, self._stack)

    def advanced(self) -> State:
        """The rule's state after the events of a train step."""
        return stacked_advance(self.rule, self._stack, self.weight[...], self.state)

    @property
    def _seen(self) -> State:
        """The state on which the mask depends in the current mode."""
        state = self.state
        check_together("mask", state.get("mask", self.weight), self.weight)
        return without_draw(state) if self.deterministic else state

    @property
    def _final(self) -> State:
        """The state on which the mask depends in eval mode."""
        return without_draw(self.state)

    @property
    def _stack(self) -> int:
        return self.weight.ndim - self.layer_ndim

    def __setattr__(self, name: str, value: Any) -> None:
        own = ("weight", *vars(self).get("state_names", (name,)))
        if isinstance(value, Learned | Mask | Setting) and name not in own:  # as nnx.update sets it
            raise ValueError(
                f"this sparse weight has {', '.join(own)} and no {name}, which is in the state of "
                "another rule; load a state into a model with the rule that it was saved with "
                "(other layers of this one may be loaded already), then give the model the new "
                "one: sparsify(model, ...)"
            )
        super().__setattr__(name, value)

    # The interface of a Param: it reads the masked weight and writes the dense one.
    @property
    def value(self) -> Array:
        """The masked weight; assigning sets the dense weight."""
        return self.read()

    @value.setter
    def value(self, value: Array) -> None:
        self.set_value(value)

    def get_value(self, *, index: Any = ...) -> Array:
        """The masked weight, or a part of it."""
        return self[index]

    def set_value(self, value: Array, *, index: Any = ...) -> None:
        """Set the dense weight, or a part of it."""
        if index is ... and np.shape(value) != self.weight.shape:
            raise ValueError(f"got shape {np.shape(value)}; the weight has {self.weight.shape}")
        self[index] = value

    @property
    def raw_value(self) -> Any:
        """What is stored: the dense weight, or the parameter that represents it."""
        return self.weight.raw_value

    @raw_value.setter
    def raw_value(self, value: Any) -> None:
        self.weight.raw_value = value

    def copy(self, *value: Array, **metadata: Any) -> "Sparse":
        """A copy with the same rule and state, and with another weight or metadata if given."""
        new = nnx.clone(self)
        for given in (*value, *(metadata.pop(n) for n in ("value",) if n in metadata)):
            new.set_value(given)
        if metadata:
            new.weight = new.weight.replace(**metadata)
        return new

    replace = copy

    def to_state(self) -> Any:
        """What `nnx.Param.to_state` gives for a Param that holds the masked weight."""
        return self.weight.replace(self.read()).to_state()

    def copy_from(self, other: "nnx.Variable | Sparse") -> None:
        """Take the dense weight of a Param, or the weight and state of a Sparse with this rule."""
        if not isinstance(other, Sparse):
            self.set_value(other[...])
        elif other.rule == self.rule:
            nnx.update(self, nnx.state(other))
        else:
            raise ValueError(f"cannot copy from a Sparse under {other.rule}; this is {self.rule}")

    update_from_state = copy_from

    def __getitem__(self, index: Any) -> Array:
        return self.read()[index]

    def __setitem__(self, index: Any, value: Array) -> None:
        self._refuse_reparameterized()
        if index is ... and np.shape(value) != self.weight.shape:  # flax 0.11 takes any shape
            value = jnp.broadcast_to(value, self.weight.shape)
        self.weight[index] = value

    def _refuse_reparameterized(self) -> None:
        if self.reparameterized:
            raise ValueError(
                f"{type(self.rule).__name__} holds a parameter in place of the weight; set the "
                "weight before sparsify, or set this parameter through .weight"
            )

    def __jax_array__(self) -> Array:
        return self.read()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.read(), dtype=dtype)

    def __len__(self) -> int:
        return len(self.weight[...])

    def __iter__(self) -> Iterator[Array]:
        return iter(self.read())

    def __contains__(self, item: Any) -> bool:  # tracers of JAX 0.7 lack the method
        return item in self.read()

    def __round__(self, ndigits: int = 0) -> Array:
        return self.read().round(ndigits)

    __hash__ = nnx.Module.__hash__  # by identity: `==` compares values

    def __getattr__(self, name: str) -> Any:
        weight = vars(self).get("weight")
        if name.startswith("_") or weight is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        of_array = hasattr(jax.Array, name) or hasattr(type(jax.tree.leaves(weight)[0]), name)
        of_weight = name in weight.get_metadata() or (hasattr(type(weight), name) and not of_array)
        if not of_array and not of_weight:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(weight if of_weight or name in LIGHT else self.read(), name)


def _operator(name: str) -> Callable:
    def operator(self: Sparse, *others: Any) -> Any:
        others = tuple(o[...] if isinstance(o, Sparse | nnx.Variable) else o for o in others)
        return getattr(self.read(), name)(*others)

    operator.__name__ = name
    return operator


def _in_place(name: str) -> Callable:
    def operator(self: Sparse, other: Any) -> Sparse:
        self._refuse_reparameterized()
        # flax 0.11 writes the Param; later versions raise an error that says how to write it
        getattr(self.weight, name)(other[...] if isinstance(other, Sparse) else other)
        return self

    operator.__name__ = name
    return operator


BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul")
BINARY += ("and", "or", "xor", "lshift", "rshift")
OTHERS = ("neg", "pos", "abs", "invert", "int", "float", "complex", "index", "trunc", "floor")
OTHERS += ("ceil", "eq", "ne", "lt", "le", "gt", "ge")
for _name in (*BINARY, *(f"r{name}" for name in BINARY), *OTHERS):
    setattr(Sparse, f"__{_name}__", _operator(f"__{_name}__"))
for _name in (f"__i{name}__" for name in BINARY if hasattr(nnx.Param, f"__i{name}__")):
    setattr(Sparse, _name, _in_place(_name))
