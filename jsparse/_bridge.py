"""Linen modules inside NNX, by `nnx.bridge.ToNNX`, whose weights are sparse."""

from typing import Any

from flax import nnx

from jsparse._slots import slots, walk_modules
from jsparse._sparse import Sparse


class SparseToNNX(nnx.bridge.ToNNX):
    """`nnx.bridge.ToNNX` that passes masked weights to Linen, which does not know Sparse.

    `sparsify` makes a ToNNX one of these, and `fold` and `resolve` make it a ToNNX again.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As in `nnx.bridge.ToNNX`; in the call each Sparse is a Param with its masked weight."""
        parts = {slot.path: slot.value for slot in slots(self, Sparse)}
        self._put({path: part.weight.replace(part.read()) for path, part in parts.items()})
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self._put(parts)

    def _put(self, values: dict[str, Any]) -> None:
        for slot in slots(self):
            if slot.path in values:
                if slot.parent is self:  # without the check that it is not from another trace,
                    vars(self)[str(slot.key)] = values[slot.path]  # as it gets its value back
                else:
                    slot.put(values[slot.path])


def fit_bridges(model: nnx.Module) -> None:
    """Give each ToNNX in a model the class that suits its weights."""
    for _, module in walk_modules(model):
        if type(module) in (nnx.bridge.ToNNX, SparseToNNX):
            kind = SparseToNNX if slots(module, Sparse) else nnx.bridge.ToNNX
            object.__setattr__(module, "__class__", kind)
