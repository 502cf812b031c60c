"""Functions that need values refuse traced models, and models of shapes, in one line."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jsparse as js
from tests.support.bad_calls import CALLS, saved

MODELS = {"model", "small", "before", "after"}
RUN_TRACED = {
    "average", "Optimizer", "fold", "resolve", "advance", "cost", "masks", "roles",
    "optim.threshold_parts", "prune.held_parts", "prune.magnitudes", "prune.snip_scores",
    "prune.grasp_scores", "prune.costs.parameters", "prune.drop_blocks", "PackedOptimizer",
    "export.trim", "export.unpack", "export.left_dense", "export.linen", "export.rebuild",
    "export.rebuild_training", "report.costs", "heads.replace", "heads.ablate",
}  # fmt: skip
"""Functions that read no values; they run inside a transformation."""
DRAWING = {"sparsify", "couple", "optim.task_gradients"}
"""Flax refuses random numbers and gradients from outside the transformation, in one line."""
READING = [n for n, one in CALLS.items() if MODELS & {*one.kinds} and n not in RUN_TRACED | DRAWING]
QUICK = {"prune.random", "shrink", "summary"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in READING]
)
def test_a_traced_model_is_refused_in_one_line(name: str) -> None:
    given = CALLS[name].arguments()
    if given.get("folder") == "saved":
        given["folder"] = saved()  # not in the trace
    for key in [key for key in given if key in MODELS and isinstance(given[key], nnx.Module)]:
        form, state = nnx.split(given[key])

        def run(state: Any) -> None:
            traced = given | {key: nnx.merge(form, state)}  # noqa: B023
            CALLS[name].function(**traced)

        with pytest.raises(TypeError, match=r"traced, as in jax\.jit") as caught:
            jax.eval_shape(run, state)
        assert "\n" not in str(caught.value)


def test_traced_batches_are_refused_too() -> None:
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    with pytest.raises(TypeError, match=r"shrink got .* traced"):
        jax.eval_shape(lambda x: js.shrink(model, x), jax.ShapeDtypeStruct((1, 4), "float32"))


def test_an_error_names_the_function_that_was_called() -> None:
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    with pytest.raises(TypeError, match=r"^magnitude got values traced"):
        jax.eval_shape(lambda: js.prune.magnitude(model, density=0.5).kernel[...])


def test_a_call_inside_jit_on_values_from_outside_is_refused_in_one_line() -> None:
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    how = {"budget": 6.0, "evaluations": 16, "key": jax.random.key(0)}
    size = js.prune.costs.parameters
    search = lambda: js.prune.search(model, lambda model: model.kernel.sum(), size, **how).cost
    for name, call in (("search", search), ("summary", lambda: js.summary(model).kept)):
        with pytest.raises(TypeError, match=f"^{name} got values traced, as in") as caught:
            jax.eval_shape(call)
        assert "\n" not in str(caught.value)


def test_other_errors_of_tracing_stay_as_they_are() -> None:
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    score = lambda model: float(model.kernel.sum())
    with pytest.raises(ValueError, match="traced array with shape float32"):
        js.prune.search(
            model,
            score,
            js.prune.costs.parameters,
            budget=6.0,
            evaluations=16,
            key=jax.random.key(0),
        )


def test_an_error_that_the_caller_handles_is_not_that_of_the_call() -> None:
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Held()))

    def call(x: jax.Array) -> None:
        try:
            int(x)
        except jax.errors.ConcretizationTypeError:
            js.prune.random(model, density=0.5, key=3)

    with pytest.raises(TypeError, match=r"^key must"):
        jax.eval_shape(call, jnp.ones(()))


OF_SHAPES = {
    "PackedOptimizer", "export.left_dense", "export.linen", "export.rebuild", "export.trim",
    "export.rebuild_training", "export.unpack", "heads.replace", "optim.threshold_parts", "roles",
    "prune.drop_blocks", "prune.held_parts",
}  # fmt: skip
"""Functions that need no values."""
READING_ARRAYS = [n for n, one in CALLS.items() if MODELS & {*one.kinds} and n not in OF_SHAPES]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in READING_ARRAYS]
)
def test_a_model_of_shapes_is_refused_in_one_line(name: str) -> None:
    given = CALLS[name].arguments()
    if given.get("folder") == "saved":
        given["folder"] = saved()
    for key in [key for key in given if key in MODELS and isinstance(given[key], nnx.Module)]:
        form, state = nnx.split(given[key])
        shapes = nnx.merge(form, jax.eval_shape(lambda state: state, state))
        with pytest.raises(TypeError, match=r"nnx\.eval_shape") as caught:
            CALLS[name].function(**given | {key: shapes})
        assert "\n" not in str(caught.value)


def test_a_dense_model_of_shapes_has_a_summary() -> None:
    model = nnx.eval_shape(lambda: nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    assert js.summary(model).dense == 15
