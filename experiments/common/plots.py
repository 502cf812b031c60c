"""Pictures of a run as PNG files; densities and accuracies come as fractions, are drawn in percent.

Figures are made without pyplot, so no screen is needed and nothing stays in memory.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jsparse._storage.files import write_whole

DPI = 150
LOG_BELOW = 5.0  # percent: below it a density axis is logarithmic
# Okabe and Ito (2008), without the yellow, which is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")


def plot_layers(
    steps: Sequence[int],
    densities: Mapping[str, Sequence[float]],
    path: str | Path,
    floor: float = 0.0,
) -> None:
    """Density of each layer over steps; logarithmic where a density falls below 5 %.

    Args:
        steps: `[n]`.
        densities: Layer name to density `[n]`.
        path: The PNG file.
        floor: Density at the lower edge, for a closer look at the top.

    Raises:
        ValueError: No layer, or a layer with more or fewer densities than steps.
    """
    if not densities:
        raise ValueError("densities is empty; give at least one layer")
    values = {name: 100 * np.asarray(density, float) for name, density in densities.items()}
    for name, value in values.items():
        if value.shape != (len(steps),):
            raise ValueError(
                f"{name} has densities of shape {list(value.shape)}, the steps are "
                f"[{len(steps)}]; give one density for each step"
            )
    figure = figure_of(7.0, max(4.0, 0.2 * len(values) + 1.2))
    axes = figure.add_subplot()
    _percent_axis(axes, np.concatenate(list(values.values())))
    if floor > 0:
        axes.set_ylim(100 * floor, 100 + 5 * (1 - floor))
    low = axes.get_ylim()[0]
    for index, value in enumerate(values.values()):
        axes.plot(
            steps,
            np.maximum(value, low),  # a dead layer runs along the lower edge
            color=COLOURS[index % len(COLOURS)],
            linestyle=STYLES[index // len(COLOURS) % len(STYLES)],
            linewidth=1.6,
            marker=_marker(steps),
            clip_on=False,
        )
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.set_xlabel("training step")
    axes.set_ylabel("density of the layer [%]")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _label_ends(axes, {name: value[-1] for name, value in values.items()}, low)
    save(figure, path)


def plot_epochs(
    epochs: Sequence[int], accuracy: Any, density: Any, path: str | Path, baseline: Any = ()
) -> None:
    """Test accuracy above density over epochs: mean over seeds, band of one standard deviation.

    Args:
        epochs: `[n]`.
        accuracy: `[seeds, n]` or `[n]`.
        density: `[seeds, n]` or `[n]`.
        path: The PNG file.
        baseline: Accuracy of the dense model: `[seeds, n]`, `[n]`, one number, or nothing.

    Raises:
        ValueError: A shape does not fit the epochs.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = figure_of(7.0, 5.6)
    above, below = figure.subplots(2, 1, sharex=True)
    accuracy = _seeds(accuracy, epochs, "accuracy")
    density = _seeds(density, epochs, "density")
    handles = [Line2D([], [], color=COLOURS[0], linewidth=1.8, label="sparse")]
    most = max(len(accuracy), len(density))
    if np.size(baseline):
        dense = _seeds(baseline, epochs, "baseline")
        most = max(most, len(dense))
        _band(above, epochs, dense, COLOURS[1], "--")
        handles.append(
            Line2D(
                [],
                [],
                color=COLOURS[1],
                linestyle="--",
                linewidth=1.8,
                label=f"dense, {dense[:, -1].mean():.2f} % at the end",
            )
        )
    if most > 1:
        handles.append(Patch(color="0.75", label=f"mean ± 1 std ({most} seeds)"))
    _percent_axis(below, np.vstack([density, density.mean(axis=0)]))
    _band(above, epochs, accuracy, COLOURS[0], "-")
    _band(below, epochs, density, COLOURS[0], "-")
    above.set_ylabel("test accuracy [%]")
    below.set_ylabel("density [%]")
    below.set_xlabel("epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    below.set_xlim(epochs[0], max(epochs[-1], epochs[0] + 1))
    for axes, value in ((above, accuracy), (below, density)):
        end = value[:, -1].mean()
        axes.grid(color="0.9")
        axes.annotate(
            f" {end:.2f} %",
            (1, max(end, axes.get_ylim()[0])),
            xycoords=("axes fraction", "data"),
            va="center",
            color=COLOURS[0],
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    save(figure, path)


def plot_first_layer(mask: Any, path: str | Path, shape: tuple[int, int] = (28, 28)) -> None:
    """What a dense first layer looks at: kept weights of each input pixel, and the mask itself.

    Args:
        mask: 0/1 `[pixels, units]`.
        path: The PNG file.
        shape: Rows and columns of the input image, `pixels` in all.

    Raises:
        ValueError: The mask has not two axes, or `shape` does not hold `pixels`.
    """
    mask = np.asarray(mask, float)
    if mask.ndim != 2 or mask.shape[0] != math.prod(shape):
        raise ValueError(
            f"mask has shape {list(mask.shape)}, [{math.prod(shape)}, units] is needed for images "
            f"of {list(shape)}; give the mask of the first dense layer and the shape of its input"
        )
    pixels, units = mask.shape
    figure = figure_of(11.0, 6.4)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    picture = left.imshow(mask.sum(axis=1).reshape(shape), cmap="viridis", vmin=0)
    left.set_title("kept weights of each input pixel")
    left.set_xlabel("column of the image")
    left.set_ylabel("row of the image")
    figure.colorbar(picture, ax=left, label=f"kept weights, of {units}", shrink=0.8)
    right.imshow(mask, cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    right.set_title(f"mask, {mask.mean():.2%} kept (black)")
    right.set_xlabel("unit of the first layer")
    right.set_ylabel(f"input pixel (row × {shape[1]} + column)")
    right.set_yticks(np.linspace(0, pixels, 8, endpoint=False).astype(int))
    save(figure, path)


def plot_kernels(mask: Any, path: str | Path) -> None:
    """The mask of a first convolution, one small square for each filter.

    Args:
        mask: 0/1 `[kh, kw, 1, filters]`.
        path: The PNG file.

    Raises:
        ValueError: The mask has another shape.
    """
    mask = np.asarray(mask, float)
    if mask.ndim != 4 or mask.shape[2] != 1:
        raise ValueError(
            f"mask has shape {list(mask.shape)}, [kh, kw, 1, filters] is needed; choose one input "
            "channel, as mask[:, :, :1]"
        )
    height, width, _, filters = mask.shape
    columns = math.ceil(math.sqrt(1.5 * filters))
    rows = math.ceil(filters / columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), np.nan)
    for index in range(filters):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = mask[:, :, 0, index]
    figure = figure_of(7.0, 7.0 * sheet.shape[0] / sheet.shape[1] + 0.8)
    axes = figure.add_subplot(facecolor="#B5CDE3")
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(f"{filters} filters of {height}×{width}, {mask.mean():.1%} kept (black)")
    axes.set_yticks((height + 1) * np.arange(rows) + (height + 1) / 2, columns * np.arange(rows))
    axes.set_xticks((width + 1) * np.arange(columns) + (width + 1) / 2, np.arange(columns))
    axes.set_ylabel("first filter of the row")
    axes.set_xlabel("+ column")
    axes.tick_params(length=0)
    save(figure, path)


def figure_of(width: float, height: float) -> Any:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: str | Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    write_whole(Path(path), buffer.getvalue())


def _seeds(values: Any, epochs: Sequence[int], name: str) -> np.ndarray:
    """Percent `[seeds, n]`."""
    array = np.atleast_2d(100 * np.asarray(values, float))
    if array.ndim != 2 or array.shape[1] not in (1, len(epochs)):
        raise ValueError(
            f"{name} has shape {list(np.shape(values))}, [seeds, {len(epochs)}] is needed; give "
            "one value for each seed and epoch"
        )
    return np.broadcast_to(array, (len(array), len(epochs)))


def _band(axes: Any, epochs: Sequence[int], values: np.ndarray, colour: str, style: str) -> None:
    mean = values.mean(axis=0)
    low = axes.get_ylim()[0] if axes.get_yscale() == "log" else -np.inf  # log has no place for 0
    axes.plot(
        epochs,
        np.maximum(mean, low),
        color=colour,
        linestyle=style,
        linewidth=1.8,
        marker=_marker(epochs),
        clip_on=len(epochs) > 1,
    )
    if len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        lower, upper = np.maximum(mean - spread, low), np.maximum(mean + spread, low)
        axes.fill_between(epochs, lower, upper, color=colour, alpha=0.25, lw=0)


def _marker(points: Sequence[int]) -> str:
    """A dot where a single point would leave no line to see."""
    return "o" if len(points) == 1 else ""


def _percent_axis(axes: Any, values: np.ndarray) -> None:
    """Limits and ticks of a density axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.grid(color="0.9")
    positive = values[values > 0]
    if positive.size and values.min() < LOG_BELOW:
        axes.set_yscale("log")
        axes.set_ylim(min(positive.min(), 5.0) * 0.8, max(100.0, values.max()) * 1.1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, max(100.0, values.max()) * 1.02)


def _label_ends(axes: Any, ends: Mapping[str, float], low: float) -> None:
    """Writes each name and last value beside its line's end, moved apart where they would touch."""
    figure = axes.figure
    figure.canvas.draw()
    to_axes = (axes.transData + axes.transAxes.inverted()).transform
    spots = [float(to_axes((0, max(end, low)))[1]) for end in ends.values()]
    gap = 10.5 / 72 / (axes.get_window_extent().height / figure.dpi)
    for index, (name, place) in enumerate(zip(ends, _apart(spots, gap), strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(
            [1.0, 1.02],
            [spots[index], place],
            transform=axes.transAxes,
            color=colour,
            linewidth=0.7,
            clip_on=False,
        )
        axes.text(
            1.025,
            place,
            f"{name}  {ends[name]:.3g} %",
            transform=axes.transAxes,
            color=colour,
            va="center",
            fontsize=8,
        )


def _apart(spots: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart, in the order of `spots` and near them, none below 0."""
    order = sorted(range(len(spots)), key=lambda index: spots[index])
    places = [0.0] * len(spots)
    floor = 0.0
    for index in order:
        places[index] = max(spots[index], floor)
        floor = places[index] + gap
    ceiling = max(1.0, gap * (len(spots) - 1))
    for index in reversed(order):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places
