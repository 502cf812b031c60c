"""Training: an optimizer that also runs the events of sparse training."""

from typing import Any, Protocol

import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from jsparse._paths import match
from jsparse._pattern import Role
from jsparse._revise.transform import Revise, Revised
from jsparse._slots import check_module, sparse_parts
from jsparse._sparse import Setting
from jsparse._surgery import advance_in_place, share_cuts_in_place
from jsparse._values import check_transform, shown


class Control(Protocol):
    """Changes the settings of a model's rules during training."""

    def init(self, model: nnx.Module) -> Array:
        """The initial memory of the control, a float array."""
        ...

    def apply(self, model: nnx.Module, memory: Array, step: Array) -> Array:
        """Change the settings of the model in place, and return the new memory."""
        ...


class Optimizer(nnx.Optimizer):
    """`nnx.Optimizer` whose `update` also runs all events of the train step.

    After updating the weights, it resets dead layers, draws new samples and applies the controls,
    so you need not remember to. Train steps without this class can use the pure function `advance`
    and the `apply` method of each control.

    Args:
      model: the model to train.
      tx: any optax transform.
      wrt: which variables to train.
      controls: objects that change the rules' settings during training, such as `TargetDensity`.

    Raises:
      TypeError: the model is no module, tx no optax transform, or controls not a tuple of them.
      ValueError: `revise` is in an `optax.chain`, or lacks the roles of stacked layers.

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

    def __init__(
        self,
        model: nnx.Module,
        tx: optax.GradientTransformation,
        *,
        wrt: Any = nnx.Param,
        controls: tuple[Control, ...] = (),
    ):
        if not isinstance(controls, tuple):
            raise TypeError(f"controls is a tuple, such as (TargetDensity(...),); got {controls!r}")
        for control in controls:
            if isinstance(control, type) or not (
                hasattr(control, "init") and hasattr(control, "apply")
            ):
                raise TypeError(
                    f"controls is a tuple of controls, such as (TargetDensity(...),); got "
                    f"{shown(control)} in it"
                )
        check_module(model)
        check_transform(tx=tx)
        super().__init__(model, tx, wrt=wrt)
        if _chains_a_revision(self.opt_state):
            raise ValueError(
                "revise is part of a chain, where clipping counts the gradients of masks and "
                "scaling changes masks; put the chain inside: revise(optax.chain(...), ...)"
            )
        if isinstance(tx, Revise):
            _check_stacks(model, tx)
        share_cuts_in_place(model)
        self.controls = controls
        memories = [c.init(model) for c in controls]
        if len({jnp.shape(memory) for memory in memories}) > 1:
            raise ValueError(
                f"controls have memories of shapes {[jnp.shape(m) for m in memories]}; give them "
                "the same shape by padding the smaller ones"
            )
        self.memory = Setting(jnp.stack(memories) if controls else jnp.zeros(0))

    def update(self, model: nnx.Module, grads: Any, /, **kwargs: Any) -> Any:
        """Update the weights with the gradients and run the events, in place.

        Args:
          model: the model that the optimizer was created with.
          grads: gradients of the loss, cost included, for the variables of `wrt`.
          **kwargs: further arguments for the optax transform.

        Returns:
          The result of `nnx.Optimizer.update`; None if the transform was made by `revise`.
        """
        step, result = self.step[...], None
        if isinstance(self.tx, Revise):
            trees = nnx.state(grads, self.wrt), self.opt_state, nnx.state(model, self.wrt)
            tree, state = self.tx.apply(*map(arrays_of, trees), **arrays_of(kwargs))
            nnx.update(model, tree)
            nnx.update(self.opt_state, nnx.state(state))
            self.step[...] += 1
        else:
            result = super().update(model, grads, **kwargs)
        advance_in_place(model)
        if self.controls:
            self.memory[...] = jnp.stack(
                [
                    c.apply(model, m, step)
                    for c, m in zip(self.controls, self.memory[...], strict=True)
                ]
            )
        return result


def arrays_of(tree: Any) -> Any:
    """The tree with arrays in place of variables."""
    newer = getattr(nnx, "as_pure", None)  # flax 0.12
    return newer(tree) if newer else nnx.to_arrays(nnx.pure(tree))  # pyright: ignore


def _check_stacks(model: nnx.Module, tx: Revise) -> None:
    """Refuse a revision that would make the layers of a stack compete with each other."""
    parts = {p: part for p, part in sparse_parts(model).items() if "mask" in part.state_names}
    for path, by in match(parts, tx.revisions).items():
        role = by.role if by.role != Role() else tx.roles.get(path, by.role)  # type: ignore[attr-defined]
        if role.stack != parts[path].rule.role.stack:
            raise ValueError(
                f"{path} stacks {parts[path].weight.shape[0]} layers, which would compete with "
                "each other; pass roles=jsparse.roles(model) to revise"
            )


def _chains_a_revision(state: Any) -> bool:
    """Whether a state is that of a chain, a plain tuple, with a revision among its parts."""
    if isinstance(state, Revised) or not isinstance(state, tuple | list | dict):
        return False
    parts = list(state.values()) if isinstance(state, dict) else list(state)
    chained = type(state) is tuple and any(isinstance(part, Revised) for part in parts)
    return chained or any(map(_chains_a_revision, parts))
