"""Parts of pages: axes, pictures of masks, and numbers in few digits."""

import base64
import io
import re

import numpy as np
import pytest

from jsparse.report._comparison import best
from jsparse.report._figures import Axis, Line, Point, axis_of, chart, density_axis
from jsparse.report._picture import Axes, draw_inputs, draw_mask, shrink_to
from jsparse.report._units import bytes_of, count_of, percent, seconds_of

Image = pytest.importorskip("PIL.Image")


def ticks(axis: Axis) -> list[str]:
    """What a vertical axis says, from below."""
    drawn = chart("t", Axis(low=0, high=1, label="x"), axis, [Line(name="", x=[], y=[])]).svg
    texts = re.findall(r"<text [^>]*text-anchor: (\w+)[^>]*>([^<]+)<", drawn)
    return [text for anchor, text in texts if anchor == "end"]


def test_best_are_those_that_no_other_beats() -> None:
    point = lambda x, y: Point(name="", x=x, y=y)
    kept = best([point(1, 9), point(2, 8), point(2, 9.5), point(3, 9.5), point(0.5, 1)])
    assert [(p.x, p.y) for p in kept] == [(0.5, 1), (1, 9), (2, 9.5)]


def test_axes_have_round_ticks() -> None:
    assert ticks(axis_of([0.915, 0.982], percent=True)) == ["92%", "94%", "96%", "98%"]
    log = density_axis([1.0, 0.02])
    assert log.log and ticks(log) == ["2%", "5%", "10%", "20%", "50%", "100%"]
    assert not density_axis([1.0, 0.2]).log
    assert Axis(low=0, high=60_000).written(20_000) == "20k"
    for values in ([], [3.0], [0.0, 0.0], [float("nan")], [-2.0, 5.0], [1e-9, 2e-9]):
        axis = axis_of(values)
        assert axis.low < axis.high and 2 <= len(ticks(axis)) <= 8
    for least in (1e-5, 1e-3, 0.03, 0.049):
        assert 3 <= len(ticks(density_axis([least, 1]))) <= 7


def levels(uri: str) -> np.ndarray:
    """The opacity of a picture, [height, width]."""
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))[..., 3]


def test_pictures_hold_the_mask() -> None:
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    dense = draw_mask("a", mask, Axes(stack=0, inputs=(0,), outputs=(1,)))
    np.testing.assert_array_equal(levels(dense.uri), 255 * mask.T)
    assert dense.size == (5, 7) and "7 outputs (rows), 5 inputs (columns)" in dense.words
    kernel = draw_mask("a", np.ones((3, 3, 1, 4), bool), Axes(stack=0, inputs=(2,), outputs=(3,)))
    assert kernel.size == (7, 7) and "2 beside each other" in kernel.words
    assert np.unique(levels(kernel.uri)).tolist() == [70, 255]  # the windows and gaps between them
    looks = draw_inputs(
        "a", np.ones((6, 9), bool), Axes(stack=0, inputs=(0,), outputs=(1,)), (2, 3)
    )
    assert looks.size == (3, 2) and "9 to 9 of 9" in looks.words
    stacked = draw_mask("a", np.ones((3, 4, 5), bool), Axes(stack=1, inputs=(1,), outputs=(2,)))
    assert stacked.size == (4, 15)
    large = draw_mask("a", np.ones((2000, 900), bool), Axes(stack=0, inputs=(0,), outputs=(1,)))
    assert large.size == (720, 480)


def test_shrinking_keeps_the_mean() -> None:
    values = np.random.default_rng(0).random((60, 90))
    small = shrink_to(values, 20, 30)
    assert small.shape == (20, 30)
    np.testing.assert_allclose(small.mean(), values.mean())
    np.testing.assert_allclose(small[0, 0], values[:3, :3].mean())


def test_numbers_in_few_digits() -> None:
    assert [percent(n) for n in (1.0, 0.0235, 0.0, 0.0004)] == [
        "100.00%",
        "2.35%",
        "0.00%",
        "0.04%",
    ]
    assert bytes_of(1_720_000) == "1.72 MB" and bytes_of(12) == "12 B"
    assert count_of(36_700_000) == "36.7 M" and count_of(999) == "999"
    assert [seconds_of(s) for s in (2.5, 0.0021, 8.2e-4)] == ["2.5 s", "2.1 ms", "820 µs"]
