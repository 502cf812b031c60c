"""Density budgets over the layers of a model: uniform, Erdos-Renyi, ERK."""

import math
from collections.abc import Mapping

from jsparse._checks import check_density
from jsparse._values import check_mapping, check_shape

Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes, density: float) -> dict[str, float]:
    """The same density for each layer.

    Args:
      shapes: shape of each layer's weight, by name.
      density: fraction kept, in (0, 1].

    Returns:
      Density of each layer.

    Raises:
      ValueError: density outside (0, 1].
    """
    _check_shapes(shapes, 0)
    return dict.fromkeys(shapes, check_density(density))


def erdos_renyi(shapes: Shapes, density: float) -> dict[str, float]:
    """Densities proportional to (inputs + outputs) / (inputs * outputs): higher for thin layers.

    Args:
      shapes: [..., inputs, outputs] of each layer's weight, by name.
      density: fraction kept over all layers, in (0, 1].

    Returns:
      Density of each layer; a layer whose density would exceed 1 stays dense, and the others share
      the rest.

    Raises:
      ValueError: density outside (0, 1].

    Reference: Mocanu et al., Scalable training with adaptive sparse connectivity (SET), 2018.
    """
    _check_shapes(shapes)
    return _in_proportion(
        shapes, density, {n: sum(s[-2:]) / math.prod(s[-2:]) for n, s in shapes.items()}
    )


def erdos_renyi_kernel(shapes: Shapes, density: float) -> dict[str, float]:
    """Like `erdos_renyi`, but also counting the width and height of the kernel.

    Args:
      shapes: [..., inputs, outputs] of each layer's weight, by name.
      density: fraction kept over all layers, in (0, 1].

    Returns:
      Density of each layer.

    Raises:
      ValueError: density outside (0, 1].

    Example:
      >>> kept = erdos_renyi_kernel({"conv": (3, 3, 16, 16), "out": (16, 10)}, 0.2)
      >>> {name: round(d, 3) for name, d in kept.items()}
      {'conv': 0.144, 'out': 1.0}

    Reference: Evci et al., Rigging the lottery (RigL), ICML 2020, section 3.
    """
    _check_shapes(shapes)
    return _in_proportion(shapes, density, {n: sum(s) / math.prod(s) for n, s in shapes.items()})


def _check_shapes(shapes: Shapes, least: int = 1) -> None:
    """Refuse anything but shapes by name."""
    check_mapping("shapes by name, such as {'out': (16, 10)}", shapes=shapes)
    for name, shape in shapes.items():
        if not check_shape(f"shapes of {name}", shape, least=least):
            raise ValueError(f"shapes of {name} must be a tuple of sizes, one or more; got {shape}")


def _in_proportion(shapes: Shapes, density: float, raw: dict[str, float]) -> dict[str, float]:
    """Densities min(1, eps * raw), with eps chosen to meet the total."""
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = check_density(density) * sum(size.values())
    dense: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in dense]
        free = budget - sum(size[name] for name in dense)
        epsilon = free / sum(raw[name] * size[name] for name in rest) if rest else 0.0
        over = [name for name in rest if epsilon * raw[name] > 1]
        if not over:
            return {name: 1.0 if name in dense else epsilon * raw[name] for name in shapes}
        dense.add(max(over, key=lambda name: raw[name]))
