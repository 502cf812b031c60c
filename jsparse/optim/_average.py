"""Moving averages of sparse models: target networks, averaged weights for evaluation, BYOL.

1. Of each sparse weight, what the two models read is averaged: u = (1 - rate) w + rate v, with w
   the target's masked weight and v the model's, both as in eval mode.
2. The target keeps the links of the model ("mask"), or as many as the model has, those of largest
   |u| ("count"), or those of either (None).
3. Its new weight is u on these links and 0 elsewhere.
4. Other floating-point variables (dense weights, biases, batch statistics) are averaged, whole
   numbers and bools are the model's, and random streams stay those of the target.

With a stored mask in the target, 1 to 3 are the same for every rule of the model, whether it learns
thresholds, shrinks weights or holds another parameter in place of the weight.

Numbers: no figure of its own; "count" is the target network of Sokar et al., Dynamic sparse
training for deep reinforcement learning, IJCAI 2022.
"""

from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jsparse._counting import any_under_vmap, count
from jsparse._paths import naming
from jsparse._slots import check_module, slots
from jsparse._sparse import Sparse
from jsparse._surgery import copied
from jsparse._topk import highest
from jsparse._untraced import explain_abstract_model
from jsparse._values import check_in, known, shown
from jsparse._variables import store, stored, write
from jsparse.rules._coupled import Follows, rule_name
from jsparse.rules._held import Held
from jsparse.rules._keep import Keep

Model = TypeVar("Model", bound=nnx.Module)
Links = Literal["mask", "count"] | None
MAKE = "make the target from the model: target = jsparse.hold(model)"


@explain_abstract_model
def average(
    target: Model, model: nnx.Module, rate: float | Array, *, keep: Links = "mask"
) -> Model:
    """The target moved toward the model: an exponential moving average of a sparse model.

        w' = (1 - rate) w + rate v

    w and v are the masked weights of the target and of the model, so what a mask hides is never
    averaged. Dense weights, biases and batch statistics are averaged too. The function is pure, and
    works under `jit`, `scan` and `vmap`; plain models are averaged in the same way.

    Args:
      target: made once by `jsparse.hold(model)`: its masks are stored, whatever the model's rules.
        It is not changed, and keeps its types: in bfloat16 a small rate would change nothing.
      model: of the same structure, under any rules.
      rate: the model's share, [] and in [0, 1]; may be traced.
      keep: the links of each sparse weight in the target: "mask" for those of the model; "count"
        for as many as in the model, those of largest |w'|; None for those of either, so that none
        is ever lost. Each layer of a stack counts separately.

    Returns:
      A copy of the target with new weights and masks. Its random streams are the target's; whole
      numbers, such as counters, are the model's.

    Raises:
      TypeError: target or model is not an nnx.Module.
      ValueError: rate or keep is something else; the two differ in paths, shapes or shared weights;
        a sparse weight of the target has another rule than `Held`; "count" for coupled units.

    Example:
      >>> import jax.numpy as jnp, jsparse
      >>> model = jsparse.sparsify(nnx.Linear(3, 1, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> model.kernel[...] = jnp.array([[4.0], [2.0], [8.0]])
      >>> model = jsparse.hold(model, {"kernel": jnp.array([[1.0], [1.0], [0.0]])})
      >>> target = jsparse.hold(model)
      >>> model = jsparse.hold(model, {"kernel": jnp.array([[0.0], [1.0], [1.0]])})
      >>> for keep in ("mask", "count", None):
      ...     print(average(target, model, 0.5, keep=keep).kernel[:, 0].tolist())
      [0.0, 2.0, 4.0]
      [2.0, 0.0, 4.0]
      [2.0, 2.0, 4.0]
    """
    check_module(target, "target")
    check_module(model)
    _check(rate, keep)
    new = copied(target)
    both = _pairs(new, model)
    if keep == "count":
        _check_single(both)
    for path, (mine, theirs) in both.items():
        with naming(path):
            if isinstance(mine, Sparse) and isinstance(mine.rule, Held):
                _move(mine, theirs, rate, keep)
            else:
                mine, theirs = (v.weight if isinstance(v, Sparse) else v for v in (mine, theirs))
                old, given = stored(mine), stored(theirs)  # arrays, or trees of them
                store(mine, jax.tree.map(lambda w, v: _mean(w, v, rate), old, given))  # 4
    return new


def _check(rate: Any, keep: Any) -> None:
    """Refuse rates outside [0, 1] and unknown words."""
    check_in("[0, 1]", **known(rate=rate))
    if jnp.ndim(rate):
        raise ValueError(f"rate must be a number in [0, 1]; got {shown(rate)}")
    if keep is not None and not (isinstance(keep, str) and keep in ("mask", "count")):
        raise ValueError(f'keep must be "mask", "count" or None; got {shown(keep)}')


def _pairs(target: nnx.Module, model: nnx.Module) -> dict[str, tuple[Any, Any]]:
    """Each variable or Sparse of the target by its first path, and the model's at this path."""
    mine, theirs = (
        {s.path: s.value for s in slots(m) if not isinstance(s.value, nnx.Intermediate)}
        for m in (target, model)
    )
    if odd := sorted(mine.keys() ^ theirs.keys()):
        where = "target" if odd[0] in mine else "model"
        raise ValueError(f"target and model differ: {odd[0]!r} is only in the {where}; {MAKE}")
    first: dict[int, str] = {}
    for path, one in mine.items():
        if theirs[first.setdefault(id(one), path)] is not theirs[path]:
            raise ValueError(
                f"target and model differ: {first[id(one)]!r} and {path!r} are one weight in the "
                f"target and two in the model; {MAKE}"
            )
        _check_pair(path, one, theirs[path])
    return {path: (mine[path], theirs[path]) for path in first.values()}


def _check_pair(path: str, mine: Any, theirs: Any) -> None:
    """Refuse a variable of the target that cannot hold an average with the model's."""
    weights = [v.weight if isinstance(v, Sparse) else v for v in (mine, theirs)]
    ours, given = (jax.tree.map(jnp.shape, stored(v)) for v in weights)
    if ours != given:
        raise ValueError(
            f"target and model differ: {path!r} has shape {ours} in the target and {given} in the "
            f"model; {MAKE}"
        )
    rules = [v.rule if isinstance(v, Sparse) else None for v in (mine, theirs)]
    dense = [rule is None or isinstance(rule, Keep) for rule in rules]
    if not all(dense) and not (isinstance(rules[0], Held) and rules[1] is not None):
        names = [rule_name(rule) if rule else "a dense weight" for rule in rules]
        raise ValueError(
            f"{path!r} is {names[0]} in the target and {names[1]} in the model; a target stores "
            f"its masks, under Held: {MAKE}"
        )


def _check_single(both: dict[str, tuple[Any, Any]]) -> None:
    """Refuse to count the links of weights whose units are coupled."""
    for path, (_, theirs) in both.items():
        if isinstance(theirs, Sparse) and isinstance(theirs.rule, Follows):
            raise ValueError(
                f'{path!r} is {rule_name(theirs.rule)} in the model, and keep="count" chooses '
                'single links, which would leave parts of units; use keep="mask", or None'
            )


def _move(mine: Sparse, theirs: Sparse, rate: float | Array, keep: Links) -> None:
    """Average a sparse weight and choose its links."""
    new = _mean(mine.read_final(), theirs.read_final(), rate)  # 1
    own, asked = mine.mask[...] > 0, theirs.read_final_mask() > 0
    links = asked if keep == "mask" else own | asked  # 2
    if keep == "count":
        axes = tuple(range(mine.ndim - mine.layer_ndim, mine.ndim))
        number = jnp.expand_dims(count(asked, axes), axes)
        size = jnp.where(links, jnp.abs(new), -1.0)
        many = any_under_vmap((count(links, axes) > count(asked, axes)).any())
        links = lax.cond(many, lambda: highest(size, number, axes), lambda: links)
    write(mine.weight, jnp.where(links, new, jnp.zeros_like(new)))  # 3
    write(mine.mask, links.astype(mine.mask.dtype))


def _mean(old: Any, new: Any, rate: float | Array) -> Any:
    """(1 - rate) old + rate new, computed in float32 or wider: [...], with the type of old."""
    kind = jnp.result_type(old)
    if jnp.issubdtype(kind, jax.dtypes.prng_key):
        return old
    if not jnp.issubdtype(kind, jnp.inexact):
        return jnp.array(new, kind)  # a copy: nothing is shared with the model
    wide = jnp.promote_types(kind, jnp.float32)
    old, new, rate = (jnp.asarray(x).astype(wide) for x in (old, new, rate))
    return ((1 - rate) * old + rate * new).astype(kind)
