"""Training: an optimizer that also runs the events of sparse training."""

import hashlib
from collections.abc import Iterable, Mapping, Set
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from jsparse._events import advance_in_place, share_cuts_in_place
from jsparse._paths import listed, match, named
from jsparse._pattern import Role
from jsparse._revise.transform import Revise, Revised
from jsparse._slots import check_module, held_groups, sparse_parts
from jsparse._untraced import explain_abstract_model
from jsparse._values import check_transform, is_number, shown
from jsparse._variables import Mask, Setting, write
from jsparse.optim._density import TargetDensity
from jsparse.optim._masked import masked_at_zero, masked_weights, without_masked
from jsparse.optim._notices import (
    costs_due,
    learned_paths,
    warn_of_decay,
    warn_of_reach,
    warn_of_unread,
    warn_of_untrained,
    warn_where_stock,
    wrong_masks,
)
from jsparse.optim._study import reach, study, without_decay
from jsparse.optim._task import arrays_of, clipped, task_gradients

MAY_BE_AROUND = {
    *("MultiStepsState", "ApplyIfFiniteState", "MaskedState", "PartitionState"),
    *("MultiTransformState", "InjectHyperparamsState", "InjectStatefulHyperparamsState"),
}
"""States of optax's transforms that leave gradients and updates as they are, in any version."""


@runtime_checkable
class Control(Protocol):
    """Changes the settings of a model's rules during training."""

    def init(self, model: nnx.Module) -> Array:
        """The initial memory of the control, a float array."""
        ...

    def apply(
        self, model: nnx.Module, memory: Array, step: Array, gradients: Mapping[str, Array]
    ) -> Array:
        """Change the settings of the model in place, and return the new memory.

        `gradients` are those of the task's loss, by path, for what rules learn and the optimizer
        trains; see `task_gradients`.
        """
        ...


class Optimizer(nnx.Optimizer):
    """`nnx.Optimizer` whose `update` also runs all events of the train step.

    After updating the weights, it resets dead layers, draws new samples and applies the controls,
    so you need not remember to. Weight decay in `tx` is for weights: what rules learn (thresholds,
    logits, scores) is not decayed, unless `route` asks for it. Weights that a stored mask hides are
    0 for `tx` and keep their values. It warns where decay cannot be removed, where nothing has read
    the cost of a rule, and where `TargetDensity` asks for more than thresholds can reach in the
    given steps. Train steps without this class can use the pure function `advance` and the `apply`
    method of each control.

    Args:
      model: the model to train.
      tx: any optax transform.
      wrt: which variables to train.
      controls: objects that change the rules' settings during training, such as `TargetDensity`.
      clip_task: largest global norm of the task's gradient; a larger one is scaled down to it. The
        gradients of `cost` and of masks do not count, and the cost's is left as it is.

    Raises:
      TypeError: the model is not a module, tx is not an optax transform, or controls is
        not a tuple of them.
      ValueError: `revise` is in a chain or another transform that changes its updates, or lacks
        the roles of stacked layers; wrt has masks, which tx would train like weights; clip_task is
        not above 0.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from jsparse import Threshold
      >>> from jsparse._surgery import cost, sparsify
      >>> model = sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", Threshold(alpha=0.1)))
      >>> optimizer = Optimizer(model, optax.sgd(0.1))
      >>> grads = nnx.grad(lambda model: model(jnp.ones((2, 4))).sum() + cost(model))(model)
      >>> _ = optimizer.update(model, grads)
      >>> int(optimizer.step[...])
      1
    """

    @explain_abstract_model
    def __init__(
        self,
        model: nnx.Module,
        tx: optax.GradientTransformation,
        *,
        wrt: Any = nnx.Param,
        controls: tuple[Control, ...] = (),
        clip_task: float = float("inf"),
    ):
        is_control = lambda one: isinstance(one, Control) and not isinstance(one, type)
        if not isinstance(controls, tuple) or not all(map(is_control, controls)):
            raise TypeError(
                "controls must be a tuple of controls, such as (TargetDensity(...),); got "
                f"{shown(controls)}"
            )
        check_module(model)
        check_transform(tx=tx)
        if not (is_number(clip_task) and clip_task > 0):
            raise ValueError(
                f"clip_task is the largest norm of the task's gradient, above 0; got {clip_task!r}"
            )
        with masked_at_zero(masked_weights(model, named(nnx.state(model, wrt)).keys())):
            super().__init__(model, tx, wrt=wrt)
        _check_around(self.opt_state)
        if words := wrong_masks(self, model):
            raise ValueError(words)
        if isinstance(tx, Revise):
            _check_stacks(model, tx)
        self.made_for = _checksum(named(nnx.state(model, self.wrt)))
        self._settle(model, tx, controls)
        share_cuts_in_place(model)
        self.controls = controls
        self.clip_task = float(clip_task)
        memories = [c.init(model) for c in controls]
        shapes = [jnp.shape(memory) for memory in memories]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"controls have memories of shapes {shapes}; give them the same shape by padding "
                "the smaller ones"
            )
        # without controls there is none, since Orbax refuses arrays without elements
        self.memory: Any = Setting(jnp.stack(memories)) if controls else None

    def _settle(self, model: nnx.Module, tx: Any, controls: tuple[Control, ...]) -> None:
        """Remove decay of what rules learn from the transform, and warn of what cannot work."""
        inner = tx.inner if isinstance(tx, Revise) else tx
        # masks in an inner transform are never seen by it
        filters = (self.wrt, nnx.Not(Mask)) if inner is not tx else (self.wrt,)
        params = arrays_of(nnx.state(model, nnx.All(*filters)))
        warn_of_untrained(model, named(params).keys())
        learned = learned_paths(model) & named(params).keys()
        found = study(inner, params, learned)
        if not hasattr(inner.update, "routed"):  # route decides about decay itself
            warn_of_decay(found.decayed)
            if found.spared:
                inner = without_decay(inner, found.spared)
                self.tx = tx.around(inner) if isinstance(tx, Revise) else inner
        self.trained = frozenset(learned - found.frozen)
        self.due = costs_due(model, self.trained)
        for control in controls:
            if isinstance(control, TargetDensity):
                moving = self.trained - found.decayed
                ways = reach(inner, params, moving, control.steps) if moving else {}
                warn_of_reach(model, ways, control.density, control.steps)

    def update(self, model: nnx.Module, grads: Any, /, **kwargs: Any) -> Any:
        """Update the weights with the gradients and run the events, in place.

        Args:
          model: the model that the optimizer was created with.
          grads: gradients of the loss, cost included, for the variables of `wrt`.
          **kwargs: further arguments for the optax transform.

        Returns:
          The result of `nnx.Optimizer.update`; None if the transform was made by `revise`.

        Raises:
          ValueError: the model has other variables than the one of the optimizer.
          TypeError: the gradients are not those of the model's variables.
        """
        paths = named(nnx.state(model, self.wrt)).keys()
        if _checksum(paths) != self.made_for:
            raise ValueError(
                "this optimizer was made for a model with other variables; make one for this model,"
                f" Optimizer(model, tx): it has {listed(paths)}"
            )
        _check_gradients(paths, grads, self.wrt)
        masked = masked_weights(model, paths)
        grads = without_masked(grads, masked)
        step, result = self.step[...], None
        warn_of_unread(self.due)
        task: dict[str, Array] = {}
        if self.controls or self.clip_task < float("inf"):
            task = task_gradients(model, grads)
        if self.clip_task < float("inf"):
            grads = clipped(model, grads, task, self.clip_task)
        steered = {path: task[path] for path in self.trained if path in task}
        grads = nnx.state(grads, self.wrt)  # Flax 0.11 passes on those of masks as well
        with masked_at_zero(masked):
            if isinstance(self.tx, Revise):
                trees = grads, self.opt_state, nnx.state(model, self.wrt)
                tree, state = self.tx.apply(*map(arrays_of, trees), **arrays_of(kwargs))
                nnx.update(model, tree)
                nnx.update(self.opt_state, nnx.state(state))
                write(self.step, step + 1)
            else:
                result = super().update(model, grads, **kwargs)
        advance_in_place(model)
        if self.controls:
            memories = zip(self.controls, self.memory[...], strict=True)
            new = [c.apply(model, m, step, steered) for c, m in memories]
            write(self.memory, jnp.stack(new))
        return result


warn_where_stock(lambda optimizer: isinstance(optimizer, Optimizer))


def _checksum(paths: Iterable[str]) -> str:
    """Of the paths of the variables to train: quick to compare at each call."""
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()


def _check_gradients(paths: Set[str], grads: Any, wrt: Any) -> None:
    """Refuse anything but gradients of the variables of this model, by path."""
    tree = isinstance(grads, nnx.State | nnx.Module)
    found = named(nnx.state(grads, wrt)).keys() if tree else paths - paths
    dense = [path for path in found - paths if any(one.startswith(f"{path}/") for one in paths)]
    if not tree or dense or (paths and found.isdisjoint(paths)):
        got = f"gradients of {listed(found)}" if found else shown(grads)
        raise TypeError(
            "grads must be the gradients of this model, as `grads = nnx.grad(loss)(model)` or "
            f"`value, grads = nnx.value_and_grad(loss)(model)` gives them; got {got}"
        )
    if missing := sorted(paths - found):
        raise TypeError(
            f"grads lack those of {listed(missing, 3)}, which this optimizer trains; take them with"
            " the filter of the optimizer, nnx.grad(loss, argnums=nnx.DiffState(0, wrt)), or give "
            "the optimizer the filter of the gradients, Optimizer(model, tx, wrt=filter)"
        )


def _check_stacks(model: nnx.Module, tx: Revise) -> None:
    """Refuse a revision that would make the layers of a stack compete with each other."""
    parts = {p: part for p, part in sparse_parts(model).items() if "mask" in part.state_names}
    groups = held_groups(model)
    for path, by in match(parts | groups, tx.revisions).items():
        if path in groups:
            continue
        role = by.role if by.role != Role() else tx.roles.get(path, by.role)  # type: ignore[attr-defined]
        if role.stack != parts[path].rule.role.stack:
            raise ValueError(
                f"{path} stacks {parts[path].weight.shape[0]} layers, which would compete with "
                "each other; pass roles=jsparse.roles(model) to revise"
            )


def _check_around(state: Any, above: tuple[str, ...] = ()) -> None:
    """Refuse what changes gradients or updates around a revision, by the types of its states."""
    if isinstance(state, Revised):
        wrong = [name for name in above if name not in MAY_BE_AROUND]
        if wrong:
            what = "a chain" if wrong[0] in ("tuple", "dict") else f"another transform ({wrong[0]})"
            raise ValueError(
                f"revise is part of {what}, where clipping counts the gradients of masks and "
                "scaling changes masks; put the chain inside: revise(optax.chain(...), ...). "
                "Only MultiSteps, apply_if_finite, masked, partition and inject_hyperparams may be "
                "around revise"
            )
        return
    if isinstance(state, tuple | list | dict):
        kind = "dict" if isinstance(state, dict) else type(state).__name__
        by_label = above[-1:] in (("PartitionState",), ("MultiTransformState",))
        inner = above if kind == "dict" and by_label else (*above, kind)
        for part in state.values() if isinstance(state, dict) else state:
            _check_around(part, inner)
