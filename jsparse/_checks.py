"""Argument checks for rules, revisions and pruning; each error says what to do instead."""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsparse._pattern import Each, Groups, Scope, Unit, WholeModel
from jsparse._values import is_number, shown


def uncalled_hint(value: Any) -> str:
    """What to add to an error where a cost gave a function in place of a number.

    Example:
      >>> uncalled_hint(0.5), uncalled_hint(lambda model: 0.5)
      ('', '. It makes a cost: call it first, as in cost=costs.flops(x)')
    """
    return ". It makes a cost: call it first, as in cost=costs.flops(x)" if callable(value) else ""


def check_rivalry(name: str, scope: Scope) -> None:
    """Refuse a scope in which no unit competes with another."""
    if isinstance(scope, Each):
        raise ValueError(
            f"with scope Each() no unit competes, so {name} would keep all; use Whole(), "
            "PerOutput(), Groups(m) or WholeModel()"
        )


def check_threshold_scope(name: str, scope: Scope) -> None:
    """Refuse a scope whose weights cannot share a threshold, for rules that learn thresholds."""
    if isinstance(scope, Groups | WholeModel):
        raise ValueError(
            f"groups and whole models cannot share a threshold, got scope {scope}; use "
            f"PerOutput(), Whole() or Each() with {name}, or Top(density=..., scope={scope})"
        )


def check_unit(unit: Unit) -> None:
    """Refuse anything but a unit."""
    _check_made("unit", unit, "tile", "Filter()")


def check_scope(scope: Scope) -> None:
    """Refuse anything but a scope."""
    _check_made("scope", scope, "axes", "PerOutput()")


def _check_made(name: str, given: Any, method: str, example: str) -> None:
    if isinstance(given, type):
        raise TypeError(f"{name} is {shown(given)}; pass an instance: {given.__name__}()")
    if not hasattr(given, method):
        raise TypeError(f"{name} is {shown(given)}, not a {name}; pass one, such as {example}")


def check_weight(weight: Array) -> None:
    """Refuse a weight that cannot be masked."""
    if not jnp.issubdtype(weight.dtype, jnp.floating):
        raise TypeError(
            f"a rule needs a floating-point weight, got {weight.dtype} of shape {weight.shape}; "
            "exclude it from the pattern"
        )
    if weight.ndim == 0:
        raise ValueError(
            "a rule needs a weight with axes, got a scalar; exclude it from the pattern"
        )


def check_density(density: float) -> float:
    """Return the density, if it is a number in (0, 1]."""
    if not (is_number(density) and 0.0 < density <= 1.0):
        what = "curve, use Gradual" if callable(density) else "sparsity s, pass density = 1 - s"
        raise ValueError(
            "density is the fraction of weights kept, in (0, 1]; "
            f"got {shown(density)}. For a {what}"
        )
    return float(density)


def require(packages: str, extra: str, what: str) -> None:
    """Refuse what needs a package, such as "saving a model", where one of them is not installed.

    The packages, as pip names them, are separated by spaces; an extra of jsparse installs them.
    """
    missing = [package for package in packages.split() if not _installed(package)]
    if missing:
        raise ImportError(
            f"{what} needs {' and '.join(missing)}, not installed: pip install "
            f"{' '.join(missing)}, or jsparse with its extra {extra}"
        )


def _installed(package: str) -> bool:
    """Whether a package is there; of orbax-checkpoint, whose module is orbax.checkpoint, both."""
    parts = package.split("-")
    names = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return all(importlib.util.find_spec(name) is not None for name in names)


@jax.jit
def all_finite(x: Array) -> Array:
    """Whether no number is NaN or infinite: bool []. Outside jit a single program, as below."""
    return jnp.isfinite(x).all()


@jax.jit
def zeros_and_ones(mask: Array) -> Array:
    """Whether a mask has only 0 and 1: bool []."""
    return ((mask == 0) | (mask == 1)).all()
