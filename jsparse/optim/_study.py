"""What an optax transform does with the parameters that rules learn, found by trying it.

1. The tree of parameters is rebuilt with one element per array, all at `VALUE`.
2. Frozen: in the traced update, that of a learned parameter does not depend on any gradient.
3. If it does not depend on parameters either, there is no decay. Otherwise the update is computed
   at many counts at once, so that schedules and accumulation do not hide anything.
4. Decay: with a gradient of 0, a learned parameter still moves; if not at once, as what is applied
   may be the step before (rprop), then within `FEW` steps; the same where the state holds earlier
   parameters, from which the next rate may be computed (prodigy).
5. It can be removed by showing the transform 0 for that parameter, if it then stays without a
   gradient and moves the same with one. That holds for decoupled and for coupled decay, but not
   where steps depend on the size of the parameter (lamb, lars) or its history (schedule_free).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

from jsparse._paths import map_by_path, named

VALUE, LESS = 0.125, 0.7
COUNTS = (*range(1024), 10_000, 100_000)
FEW, LONG = 8, 1_000
EXTRA = ({}, {"value": 1.0})
"""Further arguments that some transforms need: the loss."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What was found: paths of the learned parameters that decay, and of those that never move."""

    spared: frozenset[str] = frozenset()  # decayed, but not if the transform is shown 0 instead
    decayed: frozenset[str] = frozenset()  # and nothing can be done about it from outside
    frozen: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Spared:
    """The update of a transform that is shown 0 for some parameters; by value, so traced once."""

    update: Callable[..., tuple[Any, Any]]
    paths: frozenset[str]

    def __call__(
        self, updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        """(updates, state, params) -> (updates, state)."""
        shown = lambda path, a: jnp.zeros_like(a) if path in self.paths else a
        seen = None if params is None else map_by_path(shown, params)
        return self.update(updates, state, seen, **extra)


def without_decay(tx: optax.GradientTransformation, paths: frozenset[str]) -> Any:
    """The transform, without decay of some parameters."""
    whole = optax.with_extra_args_support(tx)
    return optax.GradientTransformationExtraArgs(whole.init, Spared(whole.update, paths))


def study(tx: optax.GradientTransformation, params: Any, learned: frozenset[str]) -> Study:
    """What a transform does with learned parameters; nothing is found if it cannot be tried."""
    for extra in EXTRA if learned else ():
        try:
            return _study(_Trial(tx, params, learned, extra))
        except Exception:  # any code of others may run here
            continue
    return Study()


def moved_by_gradients(
    tx: optax.GradientTransformation, params: Any, paths: frozenset[str]
) -> frozenset[str]:
    """Which of these parameters the gradients move, as far as that can be tried."""
    for extra in EXTRA if paths else ():
        try:
            return _Trial(tx, params, paths, extra).driven()
        except Exception:  # any code of others may run here
            continue
    return frozenset()


def reach(
    tx: optax.GradientTransformation, params: Any, learned: frozenset[str], steps: int
) -> dict[str, float]:
    """How far a parameter moves from 0 in these steps, by path, where gradients do not decide that.

    Under Adam and similar optimizers a step is the learning rate, however large the gradient; under
    Adafactor it is a fraction of the parameter, and tiny where that is 0. Transforms whose steps
    grow with the gradient are left out, and so are runs above `LONG` steps.
    """
    try:
        trial = _Trial(tx, params, learned, {})
        first = trial.moves((1e-2, VALUE, 0), (1.0, VALUE, 0), (1e2, VALUE, 0))
        walked = trial.path(steps) if steps <= LONG else {}
    except Exception:  # any code of others may run here
        return {}
    alike = lambda path: np.allclose(first[path], first[path][1], 0.1, 0)
    ways = {path: float(np.abs(values).max()) for path, values in walked.items()}
    return {path: way for path, way in ways.items() if way > 0 and alike(path)}


def _study(trial: "_Trial") -> Study:
    moved, sized = trial.depends()
    frozen = trial.learned - moved
    if not sized - frozen:
        return Study(frozen=frozen)
    given = [(0.0, VALUE), (0.0, LESS * VALUE), (0.0, 0.0), (1.0, VALUE), (1.0, 0.0)]
    moves = trial.moves(*((g, v, n) for g, v in given for n in COUNTS))
    found = _classified(
        {path: moves[path].reshape(len(given), -1) for path in moves.keys() - frozen}
    )
    certain = set() if trial.remembers() else set().union(*found.values())
    if unseen := sized - frozen - certain:
        walks = [trial.walk(FEW, *case) for case in given]
        later = {path: np.stack([walk[path] for walk in walks]) for path in unseen}
        later = _classified(later, tiny=True)
        found = {name: paths - unseen | later[name] for name, paths in found.items()}
    return Study(**found, frozen=frozen)


def _classified(moves: dict[str, np.ndarray], tiny: bool = False) -> dict[str, frozenset[str]]:
    """Which parameters are spared and which decayed, given their updates by path, [5, n].

    Those are without a gradient at `VALUE`, at `LESS` of it and at 0, and with one at `VALUE` and
    at 0; what is not finite counts as 0. `tiny`: what rounds to nothing is decay if it is
    proportional to the parameter.
    """
    found: dict[str, set[str]] = {"spared": set(), "decayed": set()}
    for path, rows in moves.items():
        decay, less, rest, warm, cold = np.nan_to_num(rows, posinf=0.0, neginf=0.0)
        apart = [np.abs(w - cold) <= 0.3 * np.abs(cold) + 1e-12 for w in (warm, warm - decay)]
        scales = tiny and decay.any() and np.allclose(less, LESS * decay, 1e-3, 0)
        if scales or (np.float32(VALUE) + decay != VALUE).any():
            alike = (apart[0] | apart[1]).all() and not rest.any()
            found["spared" if alike else "decayed"].add(path)
    return {name: frozenset(paths) for name, paths in found.items()}


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A transform on a tree with one element per array."""

    tx: optax.GradientTransformation
    params: Any
    learned: frozenset[str]
    extra: dict[str, float]

    def _traced(self) -> tuple[ClosedJaxpr, list[str], int]:
        """The update of learned parameters, their paths, and how many gradients it reads.

        Its inputs are the gradients, as many parameters, and the state.
        """
        seen = self._filled(VALUE)
        state = jax.eval_shape(self.tx.init, seen)

        def update(given: Any, seen: Any, state: Any) -> dict[str, Array]:
            return self._elements(self._update(given, state, seen)[0])

        closed, shapes = jax.make_jaxpr(update, return_shape=True)(seen, seen, state)
        return closed, sorted(shapes), len(jax.tree.leaves(seen))

    def depends(self) -> tuple[frozenset[str], frozenset[str]]:
        """The learned parameters whose update depends on gradients, and on parameters."""
        closed, paths, number = self._traced()
        inputs = {var: n for n, var in enumerate(closed.jaxpr.invars[: 2 * number])}
        reach: dict[Any, set[int]] = {var: {n} for var, n in inputs.items()}
        of = lambda var: set() if isinstance(var, Literal) else reach.get(var, set())
        for equation in closed.jaxpr.eqns:
            together = set().union(*map(of, equation.invars))
            reach |= dict.fromkeys(equation.outvars, together)
        by_path = dict(zip(paths, map(of, closed.jaxpr.outvars), strict=True))
        return (
            frozenset(p for p, found in by_path.items() if any(n < number for n in found)),
            frozenset(p for p, found in by_path.items() if any(n >= number for n in found)),
        )

    def driven(self) -> frozenset[str]:
        """The learned parameters whose update needs a gradient.

        Unlike `depends`, this looks into loops and branches.
        """
        closed, paths, number = self._traced()
        needs = lambda one: dce_jaxpr(closed.jaxpr, [path == one for path in paths])[1][:number]
        return frozenset(one for one in paths if any(needs(one)))

    def remembers(self) -> bool:
        """Whether the state holds parameters, with which later ones may be compared."""
        with jax.ensure_compile_time_eval():
            leaves = jax.tree.leaves(self.tx.init(self._filled(VALUE)))
            return any(np.all(np.asarray(x) == VALUE) for x in leaves if not _is_key(x))

    def moves(self, *cases: tuple[float, float, int]) -> dict[str, np.ndarray]:
        """The update of each learned parameter for each gradient, value and count, [cases]."""
        with jax.ensure_compile_time_eval():
            state = self.tx.init(self._filled(VALUE))

            def at(gradient: Array, value: Array, count: Array) -> dict[str, Array]:
                now = jax.tree.map(lambda s: count.astype(s.dtype) if _is_count(s) else s, state)
                return self._moved(gradient, value, now)[0]

            gradients, values, counts = zip(*cases, strict=True)
            given = jnp.array(gradients), jnp.array(values), jnp.array(counts, jnp.int32)
            return {p: np.asarray(m, np.float32) for p, m in jax.vmap(at)(*given).items()}

    def walk(self, steps: int, gradient: float, value: float) -> dict[str, np.ndarray]:
        """The update of each learned parameter at each step, [steps]."""

        def step(state: Any, _: None) -> tuple[Any, dict[str, Array]]:
            moves, state = self._moved(gradient, value, state)
            return state, moves

        with jax.ensure_compile_time_eval():
            start = self.tx.init(self._filled(VALUE))
        return self._run(step, start, steps)

    def path(self, steps: int) -> dict[str, np.ndarray]:
        """Each learned parameter after each step with gradients of 1, from 0 on: [steps]."""

        def step(now: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], dict[str, Array]]:
            state, seen = now
            given = jax.tree.map(jnp.ones_like, seen)
            updates, state = self._update(given, state, seen)
            seen = optax.apply_updates(seen, updates)
            return (state, seen), self._elements(seen)

        with jax.ensure_compile_time_eval():
            seen = self._filled(VALUE, 0.0)
            start = self.tx.init(seen), seen
        return self._run(step, start, steps)

    def _run(self, step: Callable, start: Any, steps: int) -> dict[str, np.ndarray]:
        """What some steps return, by path: [steps]."""
        program = jax.jit(lambda now: lax.scan(step, now, None, length=steps))
        _, found = program.lower(start).compile()(start)  # at once, whatever is traced around it
        return {path: np.asarray(values, np.float32) for path, values in found.items()}

    def _moved(self, gradient: Any, value: Any, state: Any) -> tuple[dict[str, Array], Any]:
        """The updates of learned parameters with this gradient and value, and the new state."""
        others = jnp.where(gradient == 0, 1.0, gradient)  # or prodigy would divide 0 by 0
        given, seen = self._filled(others, gradient), self._filled(VALUE, value)
        updates, state = self._update(given, state, seen)
        return self._elements(updates), state

    def _update(self, given: Any, state: Any, seen: Any) -> tuple[Any, Any]:
        extra = {name: jnp.asarray(value) for name, value in self.extra.items()}
        return self.tx.update(given, state, seen, **extra)

    def _filled(self, rest: Any, learned: Any = VALUE) -> Any:
        value = lambda path: learned if path in self.learned else rest
        fill = lambda path, a: jnp.full((1,) * a.ndim, value(path), a.dtype)
        return map_by_path(fill, self.params)

    def _elements(self, tree: Any) -> dict[str, Array]:
        """The single elements of the arrays of learned parameters, by path."""
        return {path: a.ravel()[0] for path, a in named(tree).items() if path in self.learned}


def _is_count(leaf: Any) -> bool:
    return jnp.ndim(leaf) == 0 and jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.integer)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)
