"""Shrink a model during training, and its optimizer with it.

1. Fold the model, and set the statistics of units without weights to what they converge to.
2. Choose what to remove, as `shrink` does; also units without weights whose constant no bias
   absorbs.
3. Cut the weights, the state of their rules, and everything in the optimizer's state that mirrors
   them. The rules still decide as if the weights were whole: they draw for all units and compare
   whole norms.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from jsparse._coupled import CoupledSparse
from jsparse._paths import map_by_path, named
from jsparse._pure import by_name, by_position, calling, examples, settings
from jsparse._slots import roles, ruled_parts, slots, sparse_parts
from jsparse._sparse import Sparse
from jsparse._surgery import copied, fold
from jsparse._untraced import outside_jit
from jsparse._values import check_function
from jsparse.export._shrinking.attributes import Mend, mend_in_place, set_in_place, stock
from jsparse.export._shrinking.cut import Cut, cut_in_place, divided
from jsparse.export._shrinking.dead import droppable, settle_in_place
from jsparse.export._shrinking.liveness import Removal
from jsparse.export._shrinking.operations import shape_of
from jsparse.export._shrinking.plan import Plan
from jsparse.export._shrinking.record import Record
from jsparse.export._shrinking.rescale import as_cut
from jsparse.export._shrinking.shrink import check_outputs
from jsparse.export._shrinking.terms import zeroed
from jsparse.export._shrinking.tracing import trace
from jsparse.optim._optimizer import Optimizer
from jsparse.optim._task import arrays_of
from jsparse.rules._coupled import Follows, rule_name
from jsparse.rules._remaining import removable, whole_axes

Model = TypeVar("Model", bound=nnx.Module)
Optim = TypeVar("Optim", bound=nnx.Optimizer)


@outside_jit
def shrink_training(
    model: Model, optimizer: Optim, *example_inputs: Any, mend: Mend = stock, **options: Any
) -> tuple[Model, Optim, Record]:
    """Remove dead units from a model in training, keeping its rules and optimizer state.

    Units are removed when the rules keep none of their incoming or none of their outgoing weights,
    as in `shrink`, and for good: a rule cannot bring them back. From here on each step equals, up
    to rounding, that of the full-size model in which these units are frozen: their biases are 0,
    their weights keep their values and still count in the norms of the units that remain, and the
    other units get the same gradients and random draws as before. The model's outputs stay the
    same, except that the constant of a unit without weights moves into a following bias, and is
    lost where none can absorb it (after padding).

    Exceptions: `cost` no longer charges removed units; `TargetDensity` counts all removed weights
    as not kept; optimizers that look at whole arrays (norms as in `lamb`, clipping, noise) see only
    what remains; dropout draws different samples.

    The rules must decide each unit independently: `Threshold`, `SoftThreshold`, `HardConcrete` (a
    unit is removed when its gate is closed in eval mode), `Held`, `Keep`; over coupled units too
    (`couple`). Under `Held`, with masks that no revision changes any more, no unit could have
    returned, and the run equals the masked one, except for biases of units without weights, which
    would have been trained there (after a ReLU not from 0). Revisions to a density (`Gradual`)
    count only what remains, so they must be over; this cannot be checked if another transform wraps
    `revise`.

    Args:
      model: in training; not changed.
      optimizer: of this model; not changed.
      *example_inputs: as for `shrink`.
      mend: as for `shrink`.
      **options: arguments by name, as for `shrink`.

    Returns:
      (the smaller model, its optimizer at the same step, the record). A compiled train step is
      recompiled once for them. If nothing is removed, the given objects and an empty record.

    Raises:
      TypeError: not an NNX module and its optimizer, one that holds the model, or no example
        inputs.
      ValueError: the optimizer is of another model, or has state that follows a parameter in
        another shape; a rule chooses among all units, as `Top` does: `hold` the model first; a
        revision to a density is not over.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from jsparse.optim import Optimizer
      >>> from jsparse import Held
      >>> from jsparse._surgery import hold, sparsify
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> model = sparsify(model, (".*/kernel", Held()))
      >>> model = hold(model, {"layers/0/kernel": jnp.ones((4, 8)).at[:, 2:].set(0.0)})
      >>> optimizer = Optimizer(model, optax.adam(1e-3))
      >>> model, optimizer, record = shrink_training(model, optimizer, jnp.ones((1, 4)))
      >>> model.layers[0].kernel.weight.shape, model.layers[2].kernel.mask.shape
      ((4, 2), (2, 3))
    """
    with settings(mend=mend):
        check_function(mend=mend)
    called, inputs = by_position(model, example_inputs, options)
    _check(model, optimizer, inputs)
    inputs = examples(inputs)
    with calling("example_inputs", inputs):
        plan = _plan(called, inputs, mend)
    removal, record = _chosen(plan, model)
    cuts, add, groups = plan.cutting(removal)
    if not cuts:
        return model, optimizer, record
    small = copied(called)
    paths = _by_path(nnx.state(small))
    cut = cut_in_place(small, cuts, add)
    mend_in_place(small, groups, mend)
    set_in_place(small, record.attributes)  # with sizes that were found by trying
    plain = _folded(small)
    settle_in_place(plain, inputs)
    zeros = zeroed(plan.graph, cuts, add) if _loses(plan, removal) else {}
    check_outputs(plan.graph, trace(plain, inputs), zeros)
    return by_name(small), _smaller(optimizer, small, paths, cut), record


def _check(model: Any, optimizer: Any, inputs: tuple) -> None:
    if not isinstance(optimizer, nnx.Optimizer):
        raise TypeError(
            f"optimizer: expected the model's jsparse.Optimizer or nnx.Optimizer, got "
            f"{type(optimizer).__name__}; without one use jsparse.shrink"
        )
    if hasattr(optimizer, "model"):
        raise TypeError(
            f"{type(optimizer).__name__} holds the full-size model, which shrinking cannot reach; "
            "train with jsparse.Optimizer or nnx.Optimizer"
        )
    parts = sparse_parts(model)
    if not inputs:
        raise TypeError(
            "shrink_training got no example inputs; give the arguments of a call, such as one batch"
        )
    for path, part in parts.items():
        rule = part.rule
        deciding = [span.rule for span in rule.spans] if isinstance(rule, Follows) else [rule]
        if not all(map(removable, deciding)):
            raise ValueError(
                f"{path}: under {rule_name(rule)} a unit may come back when others are dropped, so "
                "none can be removed; fix its masks with model = jsparse.hold(model) and a new "
                "optimizer, or use Threshold, SoftThreshold, HardConcrete or Held"
            )
    if not _fits(optimizer, model):
        raise ValueError(
            "the optimizer's state does not fit this model's parameters; give the optimizer that "
            "trains this model"
        )
    _check_revisions(optimizer)


def _check_revisions(optimizer: nnx.Optimizer) -> None:
    """Refuse revisions that would aim at a fraction of what remains."""
    done = int(optimizer.step[...])
    for pattern, by in getattr(optimizer.tx, "revisions", ()):
        if hasattr(by, "density") and done < getattr(by, "last", math.inf):
            until = f"after step {by.last}" if hasattr(by, "last") else "once it is over"
            raise ValueError(
                f"{type(by).__name__} of {pattern!r} still brings masks to a density, after step "
                f"{done}, and would take the remaining weights for all of them; shrink {until}, "
                "or put masks that stay and a new optimizer in its place"
            )


def _plan(model: nnx.Module, inputs: tuple, mend: Mend) -> Plan:
    plain = _folded(model)
    settle_in_place(plain, inputs)
    parts = {slot.path: slot.value for slot in slots(model, Sparse)}
    plan = Plan(plain, inputs, mend, rigid=parts)
    for path, part in parts.items():
        why = f"{rule_name(part.rule)} decides there about units that a cut would divide"
        plan.fixed += [(path, axis, why) for axis in whole_axes(part.rule, part.shape)]
    plan.droppable = droppable(plan.graph, plan.knowledge)
    return plan


def _chosen(plan: Plan, model: nnx.Module) -> tuple[Removal, Record]:
    """The largest removable set that divides no unit of several weights."""
    parts = sparse_parts(model)
    members = {path: part for path, part in parts.items() if isinstance(part, CoupledSparse)}
    while True:
        removal, _, _, record = plan.choose(as_cut)
        cuts = plan.cutting(removal).cuts
        pairs = [(part, cuts[p].keep if p in cuts else {}) for p, part in members.items()]
        whole = divided(pairs)
        if not whole:
            return removal, record
        for path, part in members.items():
            for span, group in part.pairs:
                if group.name in whole:
                    why = f"a part of the units of {group.name} would go"
                    plan.fixed.append((path, span.axis + part.ndim, why))


def _loses(plan: Plan, removal: Removal) -> bool:
    """Whether a constant is removed that no bias absorbs."""
    for op, positions in plan.droppable.items():
        ((axis, _),) = shape_of(op).summed
        taken = plan.foldable.get(op, np.zeros((), bool))
        if (removal.removed(op.inputs[0], axis) & positions & ~taken).any():
            return True
    return False


_folded = nnx.jit(fold)  # one program, where each operation alone would be compiled


def _smaller(
    optimizer: Optim, small: nnx.Module, paths: Mapping[str, Any], cuts: Mapping[str, Cut]
) -> Optim:
    """The optimizer, in which everything that mirrors a variable is cut like the variable."""
    graphdef, state = nnx.split(optimizer)
    mirrors = _mirrors(_by_path(state), paths)

    def smaller(path: str, leaf: Any) -> Any:
        mirrored = mirrors.get(path, "")
        if mirrored in cuts and np.shape(leaf) == cuts[mirrored].shape:
            return cuts[mirrored].placed(leaf)
        return leaf.copy() if isinstance(leaf, jax.Array) else leaf

    made = nnx.merge(graphdef, map_by_path(smaller, state))
    made.tx = _fitted(made.tx, small)
    if isinstance(made, Optimizer):  # a stock one knows of no costs
        parts = ruled_parts(small)
        made.due = tuple((path, parts[path].rule) for path, _ in made.due)
    if not _fits(made, small):
        raise ValueError(
            "the optimizer's state follows parameters in other shapes than theirs, as factored "
            "moments do; shrink_training cuts what mirrors a parameter, as Adam's moments do: use "
            "such an optimizer, or a new one for the smaller model"
        )
    return made


def _fitted(tx: Any, small: nnx.Module) -> Any:
    """The transform, updated with the places of coupled units if it revises their masks."""
    given = getattr(tx, "roles", {})
    if not any(role.group for role in given.values()):
        return tx
    now = {path: role for path, role in roles(small).items() if role.group}
    return tx.around(tx.inner, {**given, **now})


def _mirrors(leaves: Iterable[str], paths: Collection[str]) -> dict[str, str]:
    """The variable that a leaf of the optimizer's state mirrors, by path.

    If a layer is named like a part of the state, such as `mu`, the right reading is the one under
    which most variables have a leaf.
    """
    readings = {}
    for leaf in leaves:
        steps = leaf.split("/")
        ends = [("/".join(steps[:n]), "/".join(steps[n:])) for n in range(len(steps))]
        readings[leaf] = [(start, path) for start, path in ends if path in paths]
    under = Counter(start for found in readings.values() for start, _ in found)
    return {
        leaf: max(found, key=lambda one: under[one[0]])[1]
        for leaf, found in readings.items()
        if found
    }


def _fits(optimizer: nnx.Optimizer, model: nnx.Module) -> bool:
    """Whether the optimizer's state has the shapes with which it would start for this model."""
    params = arrays_of(nnx.state(model, optimizer.wrt))
    start = jax.eval_shape(optimizer.tx.init, params)
    return _by_path(start) == _by_path(arrays_of(optimizer.opt_state))


def _by_path(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path: np.shape(leaf) for path, leaf in named(tree).items()}
