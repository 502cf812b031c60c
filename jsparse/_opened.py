"""Operations of a jaxpr: what those wrap that only wrap others, and running one."""

from typing import Any

from jax.extend.core import ClosedJaxpr

WRAPPERS = {
    "pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr", "composite",
}  # fmt: skip


def opened(eqn: Any) -> ClosedJaxpr | None:
    """What an operation wraps (`jit`, `remat`, a custom gradient), or None for other operations."""
    if eqn.primitive.name not in WRAPPERS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            inner = inner if hasattr(inner, "consts") else ClosedJaxpr(inner, [])
            return inner if len(inner.jaxpr.invars) == len(eqn.invars) else None
    return None


def results(primitive: Any, settings: dict[str, Any], *inputs: Any) -> list[Any]:
    """What an operation with the settings of a jaxpr gives."""
    bound = primitive.get_bind_params(settings)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    made = primitive.bind(*functions, *inputs, **params)
    return made if primitive.multiple_results else [made]
