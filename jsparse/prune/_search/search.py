"""The search itself: controls, stages, projection, halving; see the package's docstring."""

from collections.abc import Callable
from typing import Any

from jax import Array

from jsparse._checks import check_unit
from jsparse._pattern import Unit, Weight
from jsparse._storage.described import described
from jsparse._surgery import Model, hold
from jsparse._untraced import outside_jit
from jsparse._values import check_flag, check_function, check_in, check_key, check_whole, shown
from jsparse.prune._choice import Arrays, held_parts, magnitudes
from jsparse.prune._folder import NOWHERE, RoundStore, check_keep
from jsparse.prune._search.contest import contest
from jsparse.prune._search.found import Found, SearchStopped
from jsparse.prune._search.judge import Called, Compiled, UserFunctions, no_recovery
from jsparse.prune._search.lagrangian import Lagrangian
from jsparse.prune._search.layers import layers_of
from jsparse.prune._search.methods import Method
from jsparse.prune._search.trials import Trials

ALONE, PPO = Weight(), Lagrangian()
LEAST = 16
"""Evaluations, at least: the dense model, the controls and a few candidates."""


@outside_jit
def search(
    model: Model,
    score: Callable[[Model], Any],
    cost: Callable[[Model], Any],
    budget: float | Array,
    *,
    importance: Callable[[Model], Arrays] = magnitudes,
    unit: Unit = ALONE,
    method: Method = PPO,
    recover: Callable[[Model, Array], Model] | None = None,
    evaluations: int = 2000,
    key: Array,
    traced: bool = True,
    keep: RoundStore = NOWHERE,
) -> Found[Model]:
    """Find the densities of layers that keep the best score while the cost meets a budget.

    Neither function needs a derivative. Inside a layer the most important units stay, as in
    `keep_highest`. The pool holds uniform densities, one cut through all layers and
    Erdos-Renyi-kernel densities, so the result is no worse than these beyond noise.

    Args:
      model: a trained model with weights under `Held`; it is not changed, and masked weights stay
        masked.
      score: score(model) -> [], high = good, from the masked model in the mode in which it was
        given. It should change with every weight: minus a loss on a few hundred samples outside the
        final test, clipped at a worst value, where accuracy would be flat at chance.
      cost: cost(model) -> [], 0 or more, in any unit; it decreases as units are removed. One of
        `prune.costs`, or any function.
      budget: the highest cost allowed, in that unit, above 0, such as 0.2 * cost(model).
      importance: importance(model) -> [...] by path, as the scores of `keep_highest`.
      unit: what is kept or pruned together: `Weight()`, `Filter()`, `Channel()`, `Head()`, ...; put
        only weights under `Held` whose units may be removed.
      method: `Lagrangian()`, `CrossEntropy()` or `Random()`.
      recover: recover(model, key) -> model, before each score: a few train steps, or new statistics
        for batch norm. Its variables are used; the mode stays that of the given model. Without it
        most scores are at chance in deep networks at low budgets.
      evaluations: calls of score, 16 or more.
      key: random key; the same key gives the same search.
      traced: whether the functions can be traced by JAX, so that each is compiled once for all
        candidates. With False they are called in Python: a measured latency, an external program.
      keep: `Folder("runs/a")` to resume a search that was killed; nothing is evaluated twice.

    Returns:
      A Found: the model, which meets the budget, its densities, score and cost, and all that was
      tried, which `jsparse.report.front` plots.

    Raises:
      SearchStopped: a ValueError with what was tried so far: nothing meets the budget (it gives the
        smallest cost), a function raised or did not return a finite number, or the cost rises as
        units are removed.
      TypeError, ValueError: other arguments; no weight under `Held`; a folder with other settings.

    Example:
      >>> import jax, jsparse
      >>> from flax import nnx
      >>> layers = (nnx.Linear(n, m, rngs=nnx.Rngs(n)) for n, m in ((8, 16), (16, 4)))
      >>> net, x = nnx.Sequential(*layers), jax.numpy.eye(8)
      >>> net = jsparse.sparsify(net, (".*/kernel", jsparse.Held()))
      >>> score = lambda model: -((model(x) - jsparse.fold(net)(x)) ** 2).mean()
      >>> cost = jsparse.prune.costs.parameters
      >>> how = {"method": jsparse.prune.Random(), "evaluations": 40, "key": jax.random.key(0)}
      >>> found = search(net, score, cost, 80, **how)
      >>> float(cost(found.model)) <= 80, sorted(found.densities)
      (True, ['layers/0/kernel', 'layers/1/kernel'])

    Reference: Malik, Haider, Iqbal and Taj, Neural network pruning through constrained
      reinforcement learning, ICPR 2022; projection, controls, stages and halving are ours.
    """
    held_parts(model)
    recovers, recover = recover is not None, no_recovery if recover is None else recover
    check_function(score=score, cost=cost, importance=importance, recover=recover)
    limit: Any = budget.item() if isinstance(budget, Array) and not budget.ndim else budget
    check_in("(0, inf)", budget=limit)
    check_whole(LEAST, evaluations=evaluations)
    check_key(key=key)
    check_flag(traced=traced)
    check_keep(keep)
    check_unit(unit)
    if isinstance(method, type) or not hasattr(method, "propose"):
        raise TypeError(f"method must be a method, such as Lagrangian(); got {shown(method)}")
    start = hold(model)
    layers = layers_of(start, importance, unit)
    keep.open(
        described(
            {"method": method, "unit": unit, "importance": importance, "score": score}
            | {"cost": cost, "budget": float(limit), "evaluations": evaluations, "key": key}
            | {"recover": recover, "traced": traced, "start": start}
        )
    )
    judge = (Compiled if traced else Called)(
        start, layers, UserFunctions(score, cost, recover), key
    )
    trials = Trials(layers, judge, keep, float(limit))
    try:
        return contest(trials, method, evaluations, key, recovers=recovers, traced=traced)
    except Exception as error:
        tried = trials.tried()
        lost = f"`tried` of this error has the {len(tried.score)} candidates scored so far"
        raise SearchStopped(f"{error}; {lost}", tried) from error
