"""Which weights are pruned together (unit), and which units compete (scope).

A weight of shape [..., inputs, outputs] is divided into tiles, one per unit. A scope names the axes
of the grid of units along which these compete, or share a threshold.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from jsparse._values import check_flag, check_is, check_shape, check_whole, is_whole


@dataclass(frozen=True, kw_only=True)
class Role:
    """The meaning of each axis of a weight, counted from the last.

    Axes that are neither outputs nor inputs are spatial. The first `stack` axes index whole layers
    (of a vmapped or scanned module); a rule never sees them. `heads` is the output or input axis
    that indexes attention heads. Once units have been removed, `left` says which positions of each
    axis of the full weight remain; until then it is empty. For a mask of coupled units, `group` is
    a `jsparse.rules._coupled.Joint`.
    """

    outputs: tuple[int, ...] = (-1,)
    inputs: tuple[int, ...] = (-2,)
    heads: tuple[int, ...] = ()
    stack: int = 0
    recurrent: bool = False
    left: tuple[tuple[bool, ...], ...] = ()
    group: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name in ("outputs", "inputs", "heads"):
            axes = getattr(self, name)
            if not isinstance(axes, tuple) or not all(map(is_whole, axes)):
                raise TypeError(f"{name} must be a tuple of axes, such as (-1,); got {axes!r}")
        check_whole(0, stack=self.stack)
        check_flag(recurrent=self.recurrent)
        check_is(tuple, "a tuple of tuples of True and False, one an axis", left=self.left)
        if not set(self.heads) <= set(self.outputs + self.inputs):
            raise ValueError(
                f"Role got heads {self.heads}; name an axis among the outputs "
                f"{self.outputs} and inputs {self.inputs}"
            )
        axes = self.outputs + self.inputs
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"Role got heads {self.heads}; name each axis at most once")
        if any(a >= 0 for a in axes) or len(set(axes)) < len(axes):
            raise ValueError(
                f"Role got outputs {self.outputs} and inputs {self.inputs}; count axes from the "
                "last (-1), and name each at most once"
            )

    def output_axes(self, ndim: int) -> tuple[int, ...]:
        """Output axes of a weight of rank `ndim`, counted from the first."""
        return tuple(ndim + a for a in self.outputs if ndim + a >= 0)

    def input_axes(self, ndim: int) -> tuple[int, ...]:
        """Input axes of a weight of rank `ndim`, counted from the first."""
        return tuple(ndim + a for a in self.inputs if ndim + a >= 0)


class Unit(Protocol):
    """What is pruned together: `tile` gives the extent of one unit along each axis."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Weight:
    """Each weight is a unit of its own."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return (1,) * len(shape)


@dataclass(frozen=True)
class Kernel:
    """The spatial window between one input and one output; a single weight in a dense layer."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return _whole_but(shape, role.output_axes(len(shape)) + role.input_axes(len(shape)))


@dataclass(frozen=True)
class Filter:
    """All weights that feed one output: a filter of a convolution, a column of a dense kernel."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return _whole_but(shape, role.output_axes(len(shape)))


@dataclass(frozen=True)
class Channel:
    """All weights that read one input: an input channel of a convolution, a row of a dense one."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return _whole_but(shape, role.input_axes(len(shape)))


@dataclass(frozen=True)
class Head:
    """All weights of one attention head in a query, key, value or output projection."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        if not role.heads:
            raise ValueError(
                f"Head() needs an axis of attention heads, but the weight {shape} has none; use "
                "Filter(), Channel() or Block(...), or give the rule a Role with heads"
            )
        return _whole_but(shape, tuple(len(shape) + a for a in role.heads))


@dataclass(frozen=True)
class Block:
    """A block of the last axes, such as Block((4, 4)); blocks at a ragged edge are smaller."""

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or not check_shape("shape", self.shape):
            raise ValueError(
                f"shape must be a tuple of sizes of the last axes, one or more; got {self.shape!r}"
            )

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        if len(self.shape) > len(shape):
            raise ValueError(
                f"Block{self.shape} has {len(self.shape)} axes, but the weight {shape} has "
                f"{len(shape)}; pass a block of at most {len(shape)} axes"
            )
        whole = (1,) * (len(shape) - len(self.shape)) + self.shape
        return tuple(max(1, min(b, n)) for b, n in zip(whole, shape, strict=True))


def _whole_but(shape: tuple[int, ...], apart: tuple[int, ...]) -> tuple[int, ...]:
    """A tile that spans every axis except those in `apart`, along which its length is 1."""
    return tuple(1 if axis in apart else max(1, n) for axis, n in enumerate(shape))


class Scope(Protocol):
    """Which units compete: `axes` names the axes of the grid of units to compare along."""

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Whole:
    """All units of the layer together."""

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        return tuple(range(ndim))


@dataclass(frozen=True)
class WholeModel:
    """All units of all layers under equal rules together: a global density.

    The cut is updated from the weights at each train step; call `advance` after setting weights by
    hand. Ties are resolved in favor of the first layers.
    """

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        return tuple(range(ndim))


@dataclass(frozen=True)
class PerOutput:
    """The units of each output compete among themselves."""

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        return tuple(a for a in range(ndim) if a not in role.output_axes(ndim))


@dataclass(frozen=True)
class Each:
    """Every unit by itself: units do not compete, and each has its own threshold."""

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class Groups:
    """Groups of `size` consecutive units along the last input axis: the M of N:M sparsity.

    With `skip`, weights whose axis they do not divide, such as a stem of 3 channels, stay dense;
    otherwise they are refused.
    """

    size: int
    skip: bool = False

    def __post_init__(self) -> None:
        check_whole(size=self.size)
        check_flag(skip=self.skip)

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        inputs = role.input_axes(ndim)
        if not inputs:
            raise ValueError(
                f"Groups({self.size}) needs an input axis, but this weight of rank {ndim} has "
                "none; use Whole() or PerOutput()"
            )
        return inputs[-1:]
