"""A page about a head: for each class its features, with the images that excite them most."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jsparse._checks import require
from jsparse._values import check_is, check_whole, shown
from jsparse._versions import versions
from jsparse.heads._given import check_features, read_indices
from jsparse.heads._point import Point, words_of
from jsparse.report._figures import data_uri
from jsparse.report._page import check_html_path, write_page

GAP = 2
"""Pixels between two images."""
HIGH = 56
"""Pixels that images are enlarged to, at least."""
IMAGES = "images must be an array [rows, height, width], or with 1 or 3 channels"


def page(
    point: Point,
    features: Any,
    images: Any,
    out: str | Path = "head.html",
    *,
    classes: Sequence[int] = (),
    names: Sequence[str] = (),
    most: int = 12,
    beside: int = 8,
) -> Path:
    """Write one HTML page about a head: what each class reads, largest weights first.

    A feature is shown by the images at which it is highest, and with the other classes that read
    it. In regression the outputs are called targets. The page needs no network.

    Args:
      point: the head.
      features: of the frozen model at some images, [rows, features]; a few thousand are enough.
      images: those, [rows, height, width] or [rows, height, width, 1 or 3]: bytes, or floats, which
        are drawn from their lowest to their highest.
      out: the file.
      classes: indices of those to show; all by default.
      names: of all classes; their indices by default.
      most: features per class.
      beside: images per feature, side by side.

    Returns:
      The path of the page.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: sizes that do not fit, features that are NaN or infinite, or no such class.
      IsADirectoryError: `out` is a folder.
      ImportError: matplotlib or Jinja2 is not installed.
    """
    require("jinja2 matplotlib", "report", "a page")
    check_is(Point, "a Point, such as path.choose()", point=point)
    check_features(features)
    check_html_path(out, "head.html")
    check_whole(most=most, beside=beside)
    values, pictures = np.asarray(features), _bytes(images, len(features))
    _check_fit(point, values)
    titles = _titles(point, names)
    chosen = read_indices("classes", classes, len(titles)) or range(len(titles))
    strips: dict[int, dict[str, Any]] = {}
    used = np.count_nonzero(point.weight.any(axis=1))
    accuracy, output = words_of(point)
    content = {
        "title": "What a sparse head reads",
        "about": f"lambda {point.lam:.3g}; features are standardized",
        "reached": [
            ((f"{point.accuracy:.2%}", ""), accuracy),
            ((f"{point.features_per_class:.1f}", ""), f"features per {output}"),
            ((f"{used:,}", ""), f"of {len(point.weight):,} features used"),
        ],
        "classes": [
            _class(n, point, titles, values, pictures, (most, beside), strips) for n in chosen
        ],
        "versions": (("name", "value"), [[name, str(one)] for name, one in versions().items()]),
    }
    return write_page(Path(out), content)


def _class(
    n: int,
    point: Point,
    titles: Sequence[str],
    values: np.ndarray,
    pictures: np.ndarray,
    most: tuple[int, int],
    strips: dict[int, dict[str, Any]],
) -> dict[str, Any]:
    """What the page shows of a class; pictures are kept by feature, as classes share features."""
    weights = point.weight[:, n]
    order = np.argsort(-np.abs(weights), kind="stable")
    order = order[: min(most[0], np.count_nonzero(weights))]
    rows = []
    for feature in order.tolist():
        if feature not in strips:
            highest = np.argsort(-values[:, feature], kind="stable")[: most[1]]
            strips[feature] = _strip(pictures[highest])
        others = [titles[k] for k in np.flatnonzero(point.weight[feature]).tolist() if k != n]
        rows.append(
            {
                "feature": feature,
                "weight": float(weights[feature]),
                "part": float(np.abs(weights[feature]) / np.abs(weights).max()),
                "others": ", ".join(others),
                **strips[feature],
            }
        )
    return {"name": titles[n], "rows": rows, "more": np.count_nonzero(weights) - len(rows)}


def _strip(pictures: np.ndarray) -> dict[str, Any]:
    """Images side by side, as a PNG in the page."""
    from PIL import Image

    count, high, wide, channels = pictures.shape
    times = max(1, -(-HIGH // high))
    large = pictures.repeat(times, axis=1).repeat(times, axis=2)
    step = wide * times + GAP
    sheet = np.full((high * times, count * step - GAP, channels), 128, np.uint8)
    for n, one in enumerate(large):
        sheet[:, n * step : n * step + wide * times] = one
    content = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(content, "PNG", optimize=True)
    return {"uri": data_uri(content.getvalue()), "wide": sheet.shape[1], "high": sheet.shape[0]}


def _bytes(images: Any, rows: int) -> np.ndarray:
    """Images as bytes, [rows, height, width, channels]."""
    if isinstance(images, type) or not hasattr(images, "shape"):
        raise TypeError(f"{IMAGES}; got {shown(images)}")
    given = np.asarray(images)
    if given.ndim == 3:
        given = given[..., None]
    if given.dtype.kind not in "biuf" or given.ndim != 4 or given.shape[-1] not in (1, 3):
        raise ValueError(f"{IMAGES}; got {shown(images)}")
    if len(given) != rows:
        raise ValueError(
            f"images must be one for each of {rows} rows of features; got {shown(images)}"
        )
    if given.dtype == np.uint8:
        return given
    real = np.nan_to_num(given.astype(np.float32))
    low, high = real.min(initial=np.inf), real.max(initial=-np.inf)
    return np.round(255 * (real - low) / max(high - low, 1e-30)).astype(np.uint8)


def _check_fit(point: Point, values: np.ndarray) -> None:
    if values.shape[1] != len(point.weight):
        raise ValueError(
            f"features must be those of the head, [rows, {len(point.weight)}]; got {shown(values)}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"features must be finite numbers; got NaN or infinity in {shown(values)}")


def _titles(point: Point, names: Sequence[str]) -> list[str]:
    """The names of all outputs."""
    count, output = point.weight.shape[1], words_of(point)[1]
    right = not isinstance(names, str) and isinstance(names, Sequence)
    if not right or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"names must be a list of texts, such as ['cat', 'dog']; got {shown(names)}"
        )
    if names and len(names) != count:
        raise ValueError(f"names must be one for each of {count} outputs; got {shown(names)}")
    return list(names) or [f"{output} {n}" for n in range(count)]
