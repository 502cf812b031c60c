"""What it costs to trace a train step: as much for each layer, however many come before it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.core import Tracer

import jsparse as js

X = jnp.ones((2, 8))
pytestmark = pytest.mark.standard_dtypes  # of optax.adam
RULES = {
    "Held": js.Held(),
    "Top": js.Top(density=0.5),
    "Top, whole model": js.Top(density=0.5, scope=js.WholeModel()),
    "Threshold": js.Threshold(alpha=1e-2),
    "Gibbs": js.Gibbs(density=0.5, beta=10.0),
}


def traced(layers: int, rule: js.Rule) -> Any:
    """The equations of a train step with all the events that the rule can have."""
    dense = [nnx.Linear(8, 8, rngs=nnx.Rngs(n)) for n in range(layers)]
    model = js.sparsify(nnx.Sequential(*dense), (".*/kernel", rule))
    tx, wrt, controls = optax.adam(1e-3), nnx.Param, ()
    if isinstance(rule, js.Held):
        tx, wrt = js.revise(tx, (".*/kernel", js.RigL(every=2, last=8))), (nnx.Param, js.Mask)
    if isinstance(rule, js.Threshold):
        controls = (js.TargetDensity(density=0.5, steps=10, every=2),)
    graphdef, state = nnx.split((model, js.Optimizer(model, tx, wrt=wrt, controls=controls)))

    def step(state: nnx.State) -> nnx.State:
        model, optimizer = nnx.merge(graphdef, state)
        loss = lambda model: (model(X) ** 2).mean() + js.cost(model)
        optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, wrt))(model))
        return nnx.state((js.advance(model), optimizer))

    return jax.make_jaxpr(step)(state).jaxpr


def equations(jaxpr: Any) -> int:
    """The number of equations, with those of inner programs."""
    inner = [leaf for e in jaxpr.eqns for leaf in jax.tree.leaves(e.params) if has_equations(leaf)]
    return len(jaxpr.eqns) + sum(equations(getattr(leaf, "jaxpr", leaf)) for leaf in inner)


def has_equations(leaf: Any) -> bool:
    return hasattr(leaf, "eqns")


@pytest.mark.parametrize("name", RULES)
def test_each_layer_adds_as_much_to_the_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, plain = [], nnx.Variable.__setitem__

    def counted(variable: nnx.Variable, key: Any, value: Any) -> None:
        slow.append(variable)
        plain(variable, key, value)

    monkeypatch.setattr(nnx.Variable, "__setitem__", counted)
    sizes, writes = [], []
    for layers in (2, 3, 4):
        slow.clear()
        sizes.append(equations(traced(layers, RULES[name])))
        writes.append(len([v for v in slow if isinstance(v[...], Tracer)]))
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0
    # a write of this form may cost time in proportion to the trace
    assert len(set(writes)) == 1 or not hasattr(nnx.Variable, "set_value")
