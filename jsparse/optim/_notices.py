"""What `Optimizer` says about a model and a transform that do not go together."""

import sys
import warnings
from collections.abc import Callable, Collection, Iterable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.core import Tracer

from jsparse._coupled import CoupledUnits
from jsparse._paths import listed, named
from jsparse._pattern import Role
from jsparse._revise.transform import Revised
from jsparse._slots import ruled_parts
from jsparse._sparse import COSTS_READ, Sparse
from jsparse._variables import Mask
from jsparse.optim._study import moved_by_gradients
from jsparse.optim._task import arrays_of, cost_gradient
from jsparse.rules._rule import Rule, State, with_role
from jsparse.rules._stacked import over_stack

Due = tuple[tuple[str, Rule], ...]
"""Paths and rules."""


def warn_at_caller(text: str) -> None:
    """Warn at the line of the caller's program: frames of jsparse and Flax are passed over."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("jsparse.", "flax.")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UserWarning, stacklevel=level)


def learned_paths(model: nnx.Module) -> frozenset[str]:
    """Paths of everything that rules learn."""
    return frozenset(
        f"{path}/{name}" for path, part in ruled_parts(model).items() for name in _learned(part)
    )


def costs_due(model: nnx.Module, trained: Iterable[str]) -> Due:
    """Paths and rules whose cost has a gradient for something that is trained, where known."""
    trained, known, due = set(trained), dict[tuple[Rule, str], bool](), []
    for path, part in ruled_parts(model).items():
        names = [name for name in _learned(part) if f"{path}/{name}" in trained]
        settings = ",".join(n for n in part.state_names if n not in part.rule.learned)
        if not names or any(isinstance(a, Tracer) for a in part.state.values()):
            continue
        alike = (with_role(part.rule, Role()), settings)
        if alike not in known:
            known[alike] = bool(_has_slope(part.rule, tuple(names), part.state))
        if known[alike]:
            due.append((path, part.rule))
    return tuple(due)


@partial(jax.jit, static_argnums=(0, 1))
def _has_slope(rule: Rule, names: tuple[str, ...], state: State) -> Array:
    """Whether the cost of a rule has a gradient for any of these entries of its state, []."""
    slopes = cost_gradient(rule, names, state).values()
    return jnp.any(jnp.stack([jnp.any(slope != 0) for slope in slopes]))


def warn_of_unread(due: Due) -> None:
    """Warn that nothing read the cost of some rules, so their gradient lacks it."""
    if missing := [path for path, rule in due if rule not in COSTS_READ]:
        warn_at_caller(
            f"nothing has read the cost of the rules of {listed(missing, 3)}, which then prune "
            "little or nothing; add it to the loss: loss + jsparse.cost(model)"
        )


def warn_of_untrained(model: nnx.Module, trained: Collection[str]) -> None:
    """Warn of rules whose weight is trained, but nothing of what they learn."""
    missing = [
        path
        for path, part in ruled_parts(model).items()
        if f"{path}/weight" in trained
        and (learned := _learned(part))
        and not any(f"{path}/{name}" in trained for name in learned)
    ]
    if missing:
        warn_at_caller(
            f"this optimizer trains {listed(missing, 3)}, but not what the rules there learn, so "
            "masks will hardly change; a filter by type, such as nnx.LoRAParam, needs "
            "jsparse.Learned beside it, for the optimizer and the gradient: "
            "wrt=(nnx.LoRAParam, jsparse.Learned)"
        )


def warn_of_decay(paths: frozenset[str]) -> None:
    """Warn that decay of learned parameters could not be removed."""
    if paths:
        warn_at_caller(
            f"this optimizer decays what rules learn toward 0 ({listed(sorted(paths), 3)}), and "
            "its steps depend on the size or the history of a parameter. Give them an optimizer of "
            "their own: jsparse.route(model, tx, optax.adam(1e-3)); in place of optax.lamb and "
            "optax.lars use jsparse.lamb and jsparse.lars"
        )


def warn_of_reach(model: nnx.Module, reach: dict[str, float], density: float, steps: int) -> None:
    """Warn that thresholds cannot move far enough for a density, where all of this is known.

    `reach`: how far each threshold can move in these steps, by path.
    """
    parts = ruled_parts(model)
    ways = {path: reach[f"{path}/threshold"] for path in parts if f"{path}/threshold" in reach}
    if not ways or any(isinstance(parts[path].weight[...], Tracer) for path in ways):
        return
    kept = sum(float(_mask_at(parts[path], way).sum()) for path, way in ways.items())
    left = kept / sum(parts[path].weight.size for path in ways)
    if left > 1.1 * density:
        low, high = min(ways.values()), max(ways.values())
        way = f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        warn_at_caller(
            f"TargetDensity: in {steps} steps this optimizer moves a threshold by {way} "
            f"at most, and {left:.1%} of the weights are above that now; a density of "
            f"{density:.1%} is unlikely to be reached. Train for more steps, or give thresholds a "
            "higher rate: jsparse.route(model, tx, optax.adam(1e-2))"
        )


def wrong_masks(optimizer: Any, model: nnx.Module) -> str:
    """What is wrong with an optimizer that trains masks like weights, and what to do; or ""."""
    masks = named(nnx.state(model, nnx.All(optimizer.wrt, Mask))).keys()
    is_revised = lambda part: isinstance(part, Revised)
    states = jax.tree.leaves(optimizer.opt_state, is_leaf=is_revised)
    if revised := [state.masks for state in states if is_revised(state)]:
        params = arrays_of(nnx.state(model, optimizer.wrt))
        unrevised = frozenset(masks).difference(*revised)
        if not (found := moved_by_gradients(optimizer.tx, params, unrevised)):
            return ""
        return (
            f"no revision takes {listed(sorted(found), 3)}, so the transform trains these masks "
            "like weights; give them a revision, or the label of optax.set_to_zero() in "
            "optax.partition"
        )
    if not masks:
        return ""
    return (
        f"wrt has {listed(masks, 3)}, and without a revision the transform trains masks like "
        "weights; leave jsparse.Mask out of wrt, or pass jsparse.revise(tx, ...)"
    )


def warn_where_stock(ours: Callable[[Any], bool]) -> None:
    """Let a stock `nnx.Optimizer` warn when it is made for a model whose rules have events.

    NNX has no hook for this, so the constructor is wrapped, once; `ours` run the events themselves.
    """
    given = nnx.Optimizer.__init__
    if hasattr(given, "warns_of_events"):
        return

    @wraps(given)
    def init(self: Any, model: Any = None, *args: Any, **settings: Any) -> None:
        given(self, model, *args, **settings)
        if ours(self) or not isinstance(model, nnx.Module):
            return
        if words := wrong_masks(self, model):
            warn_at_caller(words)
        if paths := [path for path, part in ruled_parts(model).items() if _has_events(part)]:
            warn_at_caller(
                f"the rules of {listed(paths, 3)} have events after each step (resets, new "
                "samples, schedules), which nnx.Optimizer does not run; use jsparse.Optimizer, or "
                "call jsparse.advance(model) after each update and ignore this warning"
            )

    init.warns_of_events = True  # type: ignore[attr-defined]
    nnx.Optimizer.__init__ = init  # type: ignore[method-assign]


def _learned(part: Sparse) -> list[str]:
    return [name for name in part.state_names if name in part.rule.learned]


def _mask_at(part: Sparse, way: float) -> jax.Array:
    """The mask with all thresholds at one value: [...] like the weight, float32."""
    state = part.state
    state["threshold"] = jnp.full_like(state["threshold"], way)
    mask = over_stack(part.rule.mask, part.rule.role.stack)(part.weight[...], state)
    return mask.astype(jnp.float32)


def _has_events(part: Sparse) -> bool:
    """Whether the rule's `advance` returns anything but what it was given, or cuts are shared."""
    shared = "cut" in part.state_names or isinstance(part, CoupledUnits)  # whose norms change
    changed = ["cut"] if shared else []

    def look(weight: Any, state: Any) -> None:
        new = part.rule.advance(weight, state)
        changed.extend(name for name in state if new[name] is not state[name])

    stack = part.rule.role.stack
    one = lambda a: jax.ShapeDtypeStruct(a.shape[stack:], a.dtype)
    jax.eval_shape(look, one(part.weight[...]), jax.tree.map(one, part.state))
    return bool(changed)
