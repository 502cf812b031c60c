"""Density budgets over the layers of a model: uniform, Erdos-Renyi, ERK."""

import dataclasses
import math
from collections.abc import Mapping

from jsparse._checks import check_density
from jsparse._values import check_in, check_mapping, check_shape

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


@dataclasses.dataclass(frozen=True)
class erdos_renyi_links:
    """A budget of links per unit: density min(1, factor (inputs + outputs) / (inputs outputs)).

    So a layer has about `factor` links for each of its inputs and outputs. `erdos_renyi` finds the
    one factor that meets a density over all layers; here the factor is given, and each layer may
    have its own. Pass density 1 to the pruning method.

    Args:
      factor: above 0, for all layers or by name; under `jsparse.prune` the name is the path.

    Raises:
      ValueError: a factor that is not above 0, or a mapping without factors. When called: a
        density other than 1; layers without a factor, or factors without a layer.
      TypeError: names that are not strings.

    Example:
      >>> shapes = {"in": (17, 256), "hidden": (256, 256)}
      >>> kept = erdos_renyi_links({"in": 7, "hidden": 64})(shapes, 1.0)
      >>> {name: round(d, 3) for name, d in kept.items()}
      {'in': 0.439, 'hidden': 0.5}

    Reference: Mocanu et al., SET, 2018, equation 1, where factor is epsilon; Sokar et al., Dynamic
    sparse training for deep reinforcement learning, IJCAI 2022, which has a factor for each layer.
    """

    factor: float | Mapping[str, float]

    def __post_init__(self) -> None:
        factors = self.factor
        if not isinstance(factors, Mapping):
            check_in("(0, inf)", factor=factors)
            return
        check_mapping("a number above 0, or numbers by name", factor=factors)
        if not factors:
            raise ValueError(f"factor must be a number above 0, or numbers by name; got {factors}")
        for name, one in factors.items():
            check_in("(0, inf)", **{f"factor of {name!r}": one})

    def __call__(self, shapes: Shapes, density: float) -> dict[str, float]:
        """Density of each layer, in (0, 1]: see `erdos_renyi`; density must be 1."""
        _check_shapes(shapes)
        if check_density(density) != 1:
            raise ValueError(
                f"density must be 1 with erdos_renyi_links, whose factor sets the numbers of "
                f"links; got {density}. For a density over all layers use erdos_renyi"
            )
        given = self.factor
        factors = given if isinstance(given, Mapping) else dict.fromkeys(shapes, given)
        if odd := sorted(factors.keys() ^ shapes.keys()):
            what = "no factor for the layer" if odd[0] in shapes else "a factor for no layer:"
            raise ValueError(f"{what} {odd[0]!r}; the layers are {', '.join(shapes) or 'none'}")
        return {
            n: min(1.0, factors[n] * sum(s[-2:]) / math.prod(s[-2:])) for n, s in shapes.items()
        }


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
