"""What was removed from a model, as plain data: enough to make a fresh model of that size."""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from jsparse._bridge import attributes, is_user_code
from jsparse._paths import naming
from jsparse._slots import slots, walk_modules
from jsparse._storage.checked_json import check_fields
from jsparse._storage.files import CorruptCheckpoint
from jsparse._surgery import copied, fold
from jsparse._values import check_is, check_mapping, is_number
from jsparse.export._shrinking.attributes import (
    NORMS,
    Attributes,
    merged,
    numbers_stored,
    set_in_place,
    sizes,
    sizes_stored,
)
from jsparse.export._shrinking.cut import Cut, cut_in_place

Model = TypeVar("Model", bound=nnx.Module)
FORMAT = "jsparse.shrink"
VERSION = 1
NAMED = ("cuts", "attributes", "stayed", "zeros", "widths", "factors")
FIELDS = {**dict.fromkeys(NAMED, dict[str, object]), "cost": list[int | float]}
CUT = {"shape": list[int], "keep": dict[str, list[int]]}
DAMAGED = "this record is damaged"
_AXIS = re.compile(r"[0-9]{1,4}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """How to get a shrunk model from the original one: see `rebuild`.

    Attributes:
      cuts: by path of the variable.
      attributes: new values by path of the module and name.
      stayed: by path of a weight, how many of its dead units stay, and the operation, file and line
        of the model that keep them.
      zeros: what was removed only because a weight is all zeros, by its path: it may not be trained
        yet.
      widths: from `jsparse.prune.units`, the old and new width of each group, by its name.
      factors: that weights were multiplied by, by path, to compensate for a number that follows a
        width: the scale of an RMS norm, the query of an attention. Of 1 + scale, the sum was. A
        part of a weight is named by its places in the whole one, as `qkv/kernel[:, 0:16]`.
      cost: from `jsparse.prune.units` with a budget, what the model and the smaller one cost, as
        its `cost` gave it: multiplications by default, seconds of `costs.latency`.
    """

    cuts: Mapping[str, Cut] = dataclasses.field(default_factory=dict)
    attributes: Attributes = dataclasses.field(default_factory=dict)
    stayed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    zeros: Mapping[str, str] = dataclasses.field(default_factory=dict)
    widths: Mapping[str, str] = dataclasses.field(default_factory=dict)
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cost: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_mapping("Cuts by path", cuts=self.cuts)
        for cut in self.cuts.values():
            check_is(Cut, "Cuts by path", cuts=cut)
        check_mapping("values by path and name", attributes=self.attributes)
        check_mapping("reasons by path", stayed=self.stayed)
        check_mapping("texts by group", widths=self.widths)
        check_mapping("numbers by path", factors=self.factors)
        numbers = isinstance(self.cost, tuple) and all(map(is_number, self.cost))
        if not numbers or len(self.cost) not in (0, 2) or not all(n >= 0 for n in self.cost):
            raise ValueError(
                f"cost must be two numbers, 0 or more, before and after; got {self.cost!r:.80}"
            )

    def then(self, later: "Record") -> "Record":
        """Both as one: this record, and one of the model that it led to.

        Args:
          later: of the smaller model. Where both have a cost, it must be in the same unit.

        Raises:
          ValueError: the later one is not of that model.

        Example:
          >>> first = Record(cuts={"bias": Cut(shape=(4,), keep={0: (0, 2, 3)})})
          >>> then = Record(cuts={"bias": Cut(shape=(3,), keep={0: (1, 2)})})
          >>> first.then(then).cuts["bias"].keep
          {0: (2, 3)}
        """
        check_is(Record, "a Record, from shrink of the smaller model", later=later)
        cuts = dict(self.cuts)
        for path, cut in later.cuts.items():
            with naming(path):
                cuts[path] = cuts[path].then(cut) if path in cuts else cut
        factors = dict(self.factors)
        for name, factor in later.factors.items():
            path = _in_whole(name, self.cuts)
            factors[path] = factors.get(path, 1.0) * factor
        cost = (self.cost[0], later.cost[1]) if self.cost and later.cost else later.cost
        attributes = merged(self.attributes, later.attributes)
        changes = {"cuts": cuts, "attributes": attributes, "factors": factors, "cost": cost}
        return dataclasses.replace(later, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Only dicts, lists, strings and numbers, as JSON has them."""
        plain = json.loads(json.dumps(dataclasses.asdict(self)))  # keys as strings, tuples as lists
        return {"format": FORMAT, "version": VERSION, **plain}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Record":
        """The record that `to_dict` wrote.

        Raises:
          ValueError: the data is not such a record.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ValueError(f"this is not a record of shrink: its format is not {FORMAT!r}")
        if data.get("version") != VERSION:
            raise ValueError(
                f"this record has version {data.get('version')!r}, this jsparse reads {VERSION}; "
                "use the jsparse that wrote it"
            )
        missing = {"zeros": {}, "widths": {}, "factors": {}, "cost": []}  # in older records
        data = _as_json({**missing, **data})
        try:
            check_fields(data, FIELDS, DAMAGED)
            for name in ("stayed", "zeros", "widths"):
                check_fields(data[name], dict.fromkeys(data[name], str), f"{DAMAGED}: {name}")
            for path, cut in data["cuts"].items():
                check_fields(cut, CUT, f"{DAMAGED}: the cut of {path!r:.80}")
            for path, sizes in data["attributes"].items():
                check_fields(sizes, {}, f"{DAMAGED}: the attributes of {path!r:.80}")
        except CorruptCheckpoint as error:
            raise ValueError(str(error)) from error
        if wrong := [path for path, one in data["factors"].items() if not _is_factor(one)]:
            raise ValueError(f"{DAMAGED}: the factor of {wrong[0]!r:.80} is not a number above 0")
        return Record(
            cuts={path: _cut(path, cut) for path, cut in data["cuts"].items()},
            attributes={path: _sizes(path, sizes) for path, sizes in data["attributes"].items()},
            cost=tuple(data["cost"]),
            **{name: data[name] for name in ("stayed", "zeros", "widths", "factors")},
        )


def _as_json(value: Any) -> Any:
    """Mappings as dicts and tuples as lists, as JSON would give them."""
    if isinstance(value, Mapping):
        return {name: _as_json(one) for name, one in value.items()}
    return list(map(_as_json, value)) if isinstance(value, list | tuple) else value


def _in_whole(name: str, cuts: Mapping[str, Cut]) -> str:
    """The name of a weight, or of its part, with the places that it had before it was cut.

    Example:
      >>> _in_whole("qkv[:, 1:3]", {"qkv": Cut(shape=(2, 6), keep={1: (0, 2, 3)})})
      'qkv[:, 2:4]'
    """
    path, _, places = name.partition("[")
    if not places or path not in cuts:
        return name
    spans = places.removesuffix("]").split(", ")
    for axis, kept in cuts[path].keep.items():
        if spans[axis] != ":":
            runs = [tuple(map(int, run.split(":"))) for run in spans[axis].split("+")]
            spans[axis] = "+".join(f"{kept[first]}:{kept[end - 1] + 1}" for first, end in runs)
    return f"{path}[{', '.join(spans)}]"


def _cut(path: str, cut: Mapping[str, Any]) -> Cut:
    if not all(map(_AXIS.fullmatch, cut["keep"])):
        raise ValueError(f"{DAMAGED}: the cut of {path!r:.80} has no axes to keep")
    keep = {int(axis): tuple(places) for axis, places in cut["keep"].items()}
    with naming(f"{DAMAGED}: the cut of {path!r:.80}"):
        return Cut(shape=tuple(cut["shape"]), keep=keep)


def _sizes(path: str, values: Mapping[str, Any]) -> dict[str, Any]:
    for name, size in values.items():
        several = size if isinstance(size, list) else [size]
        whole = all(type(one) is int and one >= 0 for one in several)
        if not whole and not _is_factor(size):
            raise ValueError(
                f"{DAMAGED}: {name!r:.80} of {path!r:.80} is {size!r:.80}, expected a size, "
                "several, or a number above 0"
            )
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _is_factor(value: Any) -> bool:
    return type(value) is float and 0 < value < math.inf


def rebuild(model: Model, record: Record) -> Model:
    """Cut a model of the original size as a record says.

    Use it to load a shrunk model: make the model as the training code does, rebuild it, and load
    the saved values into it. Until then its values are those of the given model, without the
    constants that `shrink` moved into biases and the factors that weights got.

    Args:
      model: of the original size; not changed.
      record: from `shrink`, or `Record.from_dict(json.load(file))`.

    Returns:
      A copy without rules, smaller.

    Raises:
      ValueError: the record is not of such a model.

    Example:
      >>> from flax import nnx
      >>> kernel, bias = Cut(shape=(4, 3), keep={1: (0, 2)}), Cut(shape=(3,), keep={0: (0, 2)})
      >>> cuts = {"kernel": kernel, "bias": bias}
      >>> record = Record(cuts=cuts, attributes={"": {"out_features": 2}}, stayed={})
      >>> rebuild(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), record).kernel.shape
      (4, 2)
    """
    return _rebuilt(fold(model), record)


def rebuild_training(model: Model, record: Record) -> Model:
    """As `rebuild`, for a record of `shrink_training`: with its rules, to train on.

    To resume from a checkpoint: make the model and put the rules on it as the training code does,
    rebuild it once for each record, in order, make the optimizer, and restore both.

    Args:
      model: of the original size; not changed.
      record: from `shrink_training`, or `Record.from_dict(json.load(file))`.

    Returns:
      A smaller copy.

    Raises:
      ValueError: the record is not of such a model.
    """
    return _rebuilt(copied(model), record)


def _check_attributes(path: str, module: nnx.Module, values: Mapping[str, Any]) -> None:
    """Refuse what `shrink` never changes: it only lowers sizes that layers store.

    It also sets the numbers that they add to a mean, such as an epsilon.
    """
    able = sizes_stored(module) if is_user_code(module) else sizes(module, 1)
    able = {**able, **numbers_stored(module)}
    able |= {"num_features": 0} if isinstance(module, NORMS) else {}  # also without a scale
    for name, value in values.items():
        now = attributes(module).get(name) if name in able else None
        if now is None:
            raise ValueError(
                f"the record sets {name} of {path or 'the model'}, a {type(module).__name__}; "
                f"shrink changes only {', '.join(able) or 'none of its attributes'}"
            )
        numbers = isinstance(now, float), isinstance(value, float)
        if numbers == (True, True):
            continue
        if any(numbers) or np.shape(value) != np.shape(now) or np.any(np.greater(value, now)):
            raise ValueError(
                f"the record sets {name} of {path or 'the model'} to {value}, the model has {now}; "
                "it is of another model"
            )


def _rebuilt(small: Model, record: Record) -> Model:
    """Cut the model itself."""
    check_is(Record, "a Record, from shrink or Record.from_dict", record=record)
    places = {slot.path: slot.value for slot in slots(small)}
    for path, cut in record.cuts.items():
        if path not in places:
            raise ValueError(
                f"the record names {path!r}, which this model lacks; it is of another model"
            )
        shape = tuple(places[path].shape)
        if shape != cut.shape:
            raise ValueError(
                f"{path}: the record is of shape {cut.shape}, the model has {shape}; rebuild from "
                "a model of the original size"
            )
        if any(one >= other for k in cut.keep.values() for one, other in itertools.pairwise(k)):
            raise ValueError(
                f"{path}: the positions that the record keeps are not in increasing order"
            )
    modules = dict(walk_modules(small))
    for path, values in record.attributes.items():
        if path not in modules:
            raise ValueError(f"the record names {path!r}, which this model lacks")
        _check_attributes(path, modules[path], values)
    cut_in_place(small, record.cuts, {})
    set_in_place(small, record.attributes)
    return small
