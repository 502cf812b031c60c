"""A warning when a stock `nnx.Optimizer` is made for a model whose rules have events.

NNX has no hook for this: an optimizer just reads the model's state. So the constructor is wrapped,
once; otherwise it is unchanged.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jsparse._coupled import Units
from jsparse._paths import listed, named
from jsparse._revise.transform import Revised
from jsparse._slots import ruled_parts
from jsparse._sparse import Sparse
from jsparse._variables import Mask
from jsparse.optim._notices import tell


def eventful(model: Any) -> list[str]:
    """Paths of the weights whose rules have events: something that changes after each step."""
    parts = ruled_parts(model) if isinstance(model, nnx.Module) else {}
    return [path for path, part in parts.items() if _has_events(part)]


def wrong_masks(optimizer: Any, model: nnx.Module) -> str:
    """What is wrong with an optimizer that trains masks like weights, and what to do; or ""."""
    is_revised = lambda part: isinstance(part, Revised)
    if any(map(is_revised, jax.tree.leaves(optimizer.opt_state, is_leaf=is_revised))):
        return ""
    masks = named(nnx.state(model, nnx.All(optimizer.wrt, Mask)))
    if not masks:
        return ""
    return (
        f"wrt has {listed(masks, 3)}, and without a revision the transform trains masks like "
        "weights; leave jsparse.Mask out of wrt, or pass jsparse.revise(tx, ...)"
    )


def warn_where_stock(ours: Callable[[Any], bool]) -> None:
    """Wrap the constructor of `nnx.Optimizer`, if it is not wrapped yet.

    Args:
      ours: whether an optimizer runs the events itself.
    """
    given = nnx.Optimizer.__init__
    if hasattr(given, "warns_of_events"):
        return

    @functools.wraps(given)
    def init(self: Any, model: Any = None, *args: Any, **settings: Any) -> None:
        given(self, model, *args, **settings)
        if ours(self):
            return
        if isinstance(model, nnx.Module) and (words := wrong_masks(self, model)):
            tell(words)
        if paths := eventful(model):
            tell(
                f"the rules of {listed(paths, 3)} have events after each step (resets, new "
                "samples, schedules), which nnx.Optimizer does not run; use jsparse.Optimizer, or "
                "call jsparse.advance(model) after each update and ignore this warning"
            )

    init.warns_of_events = True  # type: ignore[attr-defined]
    nnx.Optimizer.__init__ = init  # type: ignore[method-assign]


def _has_events(part: Sparse) -> bool:
    """Whether the rule's `advance` returns anything but what it was given, or cuts are shared."""
    shared = "cut" in part.state_names or isinstance(part, Units)  # whose norms change
    changed = ["cut"] if shared else []

    def look(weight: Any, state: Any) -> None:
        new = part.rule.advance(weight, state)
        changed.extend(name for name in state if new[name] is not state[name])

    stack = part.rule.role.stack
    one = lambda a: jax.ShapeDtypeStruct(a.shape[stack:], a.dtype)
    jax.eval_shape(look, one(part.weight[...]), jax.tree.map(one, part.state))
    return bool(changed)
