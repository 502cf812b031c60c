"""The structure of masks: which weights lie on a path through the network, and empty units."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jsparse._pattern import Channel, Filter, Kernel, Role, Unit
from jsparse._values import check_is, check_mapping, shown
from jsparse.report._overlap import Masks, read_mask
from jsparse.report._table import cells, table


@dataclasses.dataclass(frozen=True)
class Used:
    """Kept and used weights of one layer, or of all layers.

    Attributes:
      kept: number of weights that the mask keeps.
      used: number of kept weights that lie on a path from the input to the output.
      size: number of weights.
      mask: the used weights, bool, [...] like the weight; [0] for all layers together.
    """

    kept: int
    used: int
    size: int
    mask: np.ndarray = dataclasses.field(repr=False, compare=False)

    @property
    def sparsity(self) -> float:
        """Fraction of weights that are masked."""
        return 1 - self.kept / self.size if self.size else 0.0

    @property
    def effective_sparsity(self) -> float:
        """Fraction of weights that are masked or disconnected."""
        return 1 - self.used / self.size if self.size else 0.0


@dataclasses.dataclass(frozen=True)
class Effective:
    """Kept and used weights, layer by layer; print it, or read its fields.

    Attributes:
      rows: a Used for each layer of the chain, by its path.
    """

    rows: dict[str, Used]

    @property
    def total(self) -> Used:
        """All layers together."""
        rows = self.rows.values()
        kept, used, size = (sum(getattr(r, n) for r in rows) for n in ("kept", "used", "size"))
        return Used(kept, used, size, np.zeros(0, bool))

    def to_dict(self) -> dict:
        """The counts as plain numbers, ready for JSON."""
        plain = lambda r: {"kept": r.kept, "used": r.used, "size": r.size}
        layers = {path: plain(row) for path, row in self.rows.items()}
        return {"layers": layers, "total": plain(self.total)}

    def __str__(self) -> str:
        head = ("layer", "kept", "used", "of", "sparsity", "effective")
        lines = [
            cells("s , , , .2% .2%", path, r.kept, r.used, r.size, r.sparsity, r.effective_sparsity)
            for path, r in [*self.rows.items(), ("total", self.total)]
        ]
        return table(head, lines[:-1], lines[-1], 1)


def effective(masks: Masks, roles: Mapping[str, Role], chain: Sequence[str]) -> Effective:
    """Find the kept weights that lie on a path from the input to the output.

    A weight from unit i to unit o is used if i is reachable from the input and the output is
    reachable from o. Biases do not form paths: a unit with a bias but no input is a constant.

    The layers form a chain: each reads only the previous one. Between two layers there may be
    operations that do not mix channels (activations, norms, pooling), and a reshape of
    [..., height, width, channels] to a vector, which is recognized by its length. A layer that
    reads fewer channels than the previous one has is taken to be grouped. A channel of a
    convolution counts as alive everywhere or nowhere, so positions at an edge that a window with
    few weights never reaches are not detected. Branches, residual connections and recurrent cells
    do not form a chain.

    Args:
      masks: by path, such as `jsparse.masks(model)`; ones for a dense layer of the chain.
      roles: the meaning of their axes, `jsparse.roles(model)`; layers not listed have axes
        [spatial..., inputs, outputs].
      chain: paths of the layers from the input to the output, since a model does not record their
        order.

    Returns:
      An Effective, which prints as a table.

    Raises:
      ValueError: a layer without a mask, a stacked or recurrent layer, or sizes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> first = jnp.array([[1.0, 1.0], [0.0, 1.0]])  # [inputs, units]
      >>> second = jnp.array([[1.0], [0.0]])  # nothing reads the second unit
      >>> effective({"a": first, "b": second}, {}, ["a", "b"]).rows["a"].used
      1

    Reference: Paganini and Forde, Bespoke vs. Prêt-à-Porter Lottery Tickets, 2020, on explicit and
    effective sparsity.
    """
    _check(masks, roles)
    if isinstance(chain, str) or not isinstance(chain, Sequence):
        raise TypeError(
            f"chain must be paths of layers, such as ['a/kernel', 'b/kernel']; got {shown(chain)}"
        )
    if not chain:
        raise ValueError("the chain is empty; name the layers from the input to the output")
    links = [_links(path, masks, roles) for path in chain]
    joined = [links[0]]
    for n in range(1, len(links)):
        joined.append(_join(joined[-1].shape[1], links[n], chain[n - 1], chain[n]))
    live = np.ones(len(joined[0]), bool)
    for n, link in enumerate(joined):  # from the input on: drop what reads a dead unit
        joined[n] = link & np.resize(live, len(link))[:, None]
        live = joined[n].any(axis=0)
    live = np.ones(joined[-1].shape[1], bool)
    for n in reversed(range(len(joined))):  # and back: drop what makes a unit that nothing reads
        joined[n] = joined[n] & live.reshape(-1, max(1, joined[n].shape[1])).any(axis=0)
        live = joined[n].any(axis=1)
    rows = {}
    for path, link, on_path in zip(chain, links, joined, strict=True):
        mask = read_mask(path, masks[path])
        used = mask & _spread(on_path, len(link), mask.shape, roles.get(path, Role()))
        rows[path] = Used(int(mask.sum()), int(used.sum()), mask.size, used)
    return Effective(rows)


def _check(masks: Masks, roles: Mapping[str, Role]) -> None:
    check_mapping("masks by path, such as jsparse.masks(model)", masks=masks)
    check_mapping("roles by path, such as jsparse.roles(model)", roles=roles)
    for role in roles.values():
        check_is(Role, "roles by path, such as jsparse.roles(model)", roles=role)


def _links(path: str, masks: Masks, roles: Mapping[str, Role]) -> np.ndarray:
    """Which inputs each output of a layer reads: bool [inputs, outputs]."""
    if path not in masks:
        raise ValueError(
            f"{path} has no mask; available: {', '.join(masks) or 'none'}. Pass ones for a layer "
            "without a rule"
        )
    mask, role = read_mask(path, masks[path]), roles.get(path, Role())
    if role.stack or role.recurrent:
        what = "recurrent" if role.recurrent else "a stack of layers"
        raise ValueError(
            f"{path} is {what}, which cannot be part of a chain; give each layer of a stack its "
            "own path and mask, and leave recurrent cells out"
        )
    ins, outs = role.input_axes(mask.ndim), role.output_axes(mask.ndim)
    rest = tuple(a for a in range(mask.ndim) if a not in ins + outs)
    sizes = [math.prod(mask.shape[a] for a in axes) for axes in (ins, outs)]
    return np.asarray(mask.transpose(rest + ins + outs).reshape(-1, *sizes).any(axis=0))


def _join(before: int, link: np.ndarray, first: str, second: str) -> np.ndarray:
    """The links with one input per output of the previous layer, also for grouped layers."""
    inputs, outputs = link.shape
    groups = before // inputs if inputs else 0
    if inputs and before and inputs % before == 0:
        return link
    if not groups or before % inputs or outputs % groups:
        raise ValueError(
            f"{first} has {before} outputs and {second} has {inputs} inputs and {outputs} outputs, "
            "which do not match; list the layers in order, with masks of ones for those without "
            "a rule"
        )
    whole, each = np.zeros((groups, inputs, groups, outputs // groups), bool), range(groups)
    whole[each, :, each] = link.reshape(inputs, groups, -1).swapaxes(0, 1)
    return whole.reshape(before, outputs)


def _spread(on_path: np.ndarray, inputs: int, shape: tuple[int, ...], role: Role) -> np.ndarray:
    """[inputs of all groups, outputs] -> an array that broadcasts to the shape of the weight."""
    groups, outputs = len(on_path) // inputs, on_path.shape[1]
    parts, each = on_path.reshape(groups, inputs, groups, outputs // groups), range(groups)
    own = parts[each, :, each].swapaxes(0, 1)
    ins, outs = role.input_axes(len(shape)), role.output_axes(len(shape))
    ordered = own.reshape([shape[a] for a in ins + outs])
    # from (inputs, outputs) back to the order of the weight's axes
    ordered = ordered.transpose(np.argsort(ins + outs))
    return np.expand_dims(ordered, tuple(a for a in range(len(shape)) if a not in ins + outs))


@dataclasses.dataclass(frozen=True)
class Empty:
    """Number of units of one kind in which a mask keeps no weight.

    Attributes:
      units: number of units.
      empty: number of units without a kept weight.
      chance: expected number for a random mask that keeps as many weights.
      spread: standard deviation of that number.
    """

    units: int
    empty: int
    chance: float
    spread: float


@dataclasses.dataclass(frozen=True)
class Structure:
    """Empty units, compared with chance; print it, or read its fields.

    Attributes:
      rows: by path and kind: "filters" (in a dense kernel the columns, its outputs), "channels"
        (the rows, its inputs) and, in convolutions, "kernels".
    """

    rows: dict[str, dict[str, Empty]]

    def to_dict(self) -> dict:
        """The counts as plain numbers, ready for JSON."""
        return {
            path: {kind: dataclasses.asdict(one) for kind, one in kinds.items()}
            for path, kinds in self.rows.items()
        }

    def __str__(self) -> str:
        texts = lambda e: (f"{e.empty:,}", f"{e.chance:,.1f} ± {e.spread:,.1f}", f"{e.units:,}")
        all_of = [one for kinds in self.rows.values() for one in kinds.values()]
        total = Empty(
            sum(e.units for e in all_of),
            sum(e.empty for e in all_of),
            sum(e.chance for e in all_of),
            math.hypot(*(e.spread for e in all_of)),
        )
        head = ("layer", "unit", "empty", "by chance", "of")
        body = [
            (path, kind, *texts(one))
            for path, kinds in self.rows.items()
            for kind, one in kinds.items()
        ]
        return table(head, body, ("total", "", *texts(total)), 2)


UNITS: dict[str, Unit] = {"filters": Filter(), "channels": Channel(), "kernels": Kernel()}


def structure(masks: Masks, roles: Mapping[str, Role]) -> Structure:
    """Count the filters, channels and kernels that a mask leaves empty, and compare with chance.

    A random mask that keeps K of N weights leaves a unit of n weights empty with probability
    C(N - n, K) / C(N, K).

    Args:
      masks: by path, such as `jsparse.masks(model)`.
      roles: the meaning of their axes, `jsparse.roles(model)`; weights not listed have axes
        [spatial..., inputs, outputs].

    Returns:
      A Structure, which prints as a table with one row for each layer of a stack.

    Example:
      >>> import jax.numpy as jnp
      >>> found = structure({"a": jnp.array([[1.0, 0.0], [1.0, 0.0]])}, {}).rows["a"]
      >>> found["filters"].empty, round(found["filters"].chance, 3)
      (1, 0.333)

    Reference: Paganini and Forde, On Iterative Neural Network Pruning, 2020, raise the
    question; the comparison with chance is ours.
    """
    _check(masks, roles)
    rows: dict[str, dict[str, Empty]] = {}
    for path, mask in masks.items():
        whole, role = read_mask(path, mask), roles.get(path, Role())
        for place in np.ndindex(whole.shape[: role.stack]):
            layer = whole[place]
            tiles = {name: unit.tile(layer.shape, role) for name, unit in UNITS.items()}
            kinds = {
                name: _empty(layer, tile) for name, tile in tiles.items() if math.prod(tile) > 1
            }
            rows[path + "".join(f"[{n}]" for n in place)] = kinds
    return Structure(rows)


def _empty(mask: np.ndarray, tile: tuple[int, ...]) -> Empty:
    inside = tuple(a for a in range(mask.ndim) if tile[a] > 1)
    alive = mask.any(axis=inside)
    size, kept, n, units = mask.size, int(mask.sum()), math.prod(tile), alive.size
    one, two = (math.exp(_log_chance(size, kept, n * together)) for together in (1, 2))
    variance = units * one * (1 - one) + units * (units - 1) * (two - one**2)
    return Empty(units, units - int(alive.sum()), units * one, math.sqrt(max(0.0, variance)))


def _log_chance(size: int, kept: int, n: int) -> float:
    """log C(size - n, kept) / C(size, kept): the log-probability that none of n weights is kept."""
    if n > size - kept:
        return -math.inf
    choose = lambda m: math.lgamma(m + 1) - math.lgamma(m - kept + 1)
    return choose(size - n) - choose(size)
