"""The roles of weights: what each axis of a stock layer's parameter means."""

import dataclasses
import re
from typing import Any

from flax import nnx

from jsparse._pattern import Role
from jsparse._slots import Slot
from jsparse.rules._rule import Rule, with_role


def fit(rule: Rule, slot: Slot, weight: nnx.Param) -> Rule:
    """The rule, with the role that the layer gives to its weight unless it has one of its own."""
    if rule.role != Role():
        return rule
    role = role_of(slot.parent, slot.key, weight.ndim)
    return with_role(rule, dataclasses.replace(role, recurrent=slot.recurrent))


def role_of(layer: Any, key: str | int, ndim: int) -> Role:
    """The role of a stock layer's weight of rank `ndim`; in other layers [spatial, input, output].

    A module of your own that has an equation `einsum_str` and a kernel `w` or `kernel`, its second
    operand, is read as `nnx.Einsum` is.

    Leading axes beyond those of the layer stack whole layers, the default of `nnx.vmap` and
    `nnx.scan`; for a stack along another axis, give the rule a `Role` of its own.
    """
    if key == "bias" and hasattr(layer, "kernel"):
        return Role(inputs=(), stack=role_of(layer, "kernel", layer.kernel.ndim).stack)
    match layer:
        case nnx.Linear() | nnx.Embed():
            role, layer_ndim = Role(), 2
        case nnx.Conv():
            role, layer_ndim = Role(), len(layer.kernel_size) + 2
        case nnx.ConvTranspose():
            role = Role(outputs=(-2,), inputs=(-1,)) if layer.transpose_kernel else Role()
            layer_ndim = len(layer.kernel_size) + 2
        case nnx.LinearGeneral():
            outs, ins = len(layer.out_features), len(layer.in_features)
            # in the projections of attention, several outputs or inputs are [heads, width]
            heads = (-outs,) if outs > 1 else (-outs - ins,) if ins > 1 else ()
            layer_ndim = len(getattr(layer, "batch_axis", ())) + outs + ins
            batch = tuple(range(-layer_ndim, -outs - ins))
            role = Role(
                outputs=batch + tuple(range(-outs, 0)),
                inputs=tuple(range(-outs - ins, -outs)),
                heads=heads,
            )
        case nnx.Einsum():
            layer_ndim = len(layer.kernel_shape)
            role = _einsum_role(layer.einsum_str, layer_ndim)
        case nnx.BatchNorm() | nnx.LayerNorm() | nnx.RMSNorm() | nnx.GroupNorm():
            role, layer_ndim = Role(inputs=()), 1
        case _:
            equation: Any = getattr(layer, "einsum_str", None)  # in modules such as Gemma's
            axes = kernel_axes(equation) if key in ("w", "kernel") else ""
            if not 0 < len(axes) <= ndim:
                return Role()
            role, layer_ndim = _einsum_role(equation, len(axes)), len(axes)
    return dataclasses.replace(role, stack=max(0, ndim - layer_ndim))


def multiplies_inputs(layer: Any, key: str | int) -> bool:
    """Whether a weight is a kernel with which a stock layer multiplies its inputs, all of it."""
    if getattr(layer, "mask", None) is not None:
        return False
    general = isinstance(layer, nnx.LinearGeneral) and not getattr(layer, "batch_axis", ())
    return key == "kernel" and (general or isinstance(layer, nnx.Linear | nnx.Conv))


def kernel_axes(equation: Any) -> str:
    """The axes of the kernel, the second operand of an equation; "" if it is not one."""
    parts = re.fullmatch(r"[^,]*,([^,]*)->[^,]*", equation) if isinstance(equation, str) else None
    return re.sub(r"\.\.\.|\s", "", parts[1]) if parts else ""


def _einsum_role(equation: str, ndim: int) -> Role:
    """The role of a kernel in an einsum: axes in the result are outputs, summed axes are inputs."""
    result = equation.partition("->")[2]
    axes = {n - ndim: letter in result for n, letter in enumerate(kernel_axes(equation))}
    return Role(
        outputs=tuple(a for a, kept in axes.items() if kept),
        inputs=tuple(a for a, kept in axes.items() if not kept),
    )
