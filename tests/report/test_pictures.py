"""Parts of pages: axes, pictures of masks, and numbers in few digits."""

import struct
import zlib

import numpy as np
import pytest

from jsparse.report._chart import Axis, Point, axis_of, density_axis
from jsparse.report._comparison import best
from jsparse.report._document import bytes_of, count_of, percent, seconds_of
from jsparse.report._picture import Axes, draw_inputs, draw_mask, shrink_to, write_png


def test_best_are_those_that_no_other_beats() -> None:
    point = lambda x, y: Point(name="", x=x, y=y)
    kept = best([point(1, 9), point(2, 8), point(2, 9.5), point(3, 9.5), point(0.5, 1)])
    assert [(p.x, p.y) for p in kept] == [(0.5, 1), (1, 9), (2, 9.5)]


def test_axes_have_round_ticks() -> None:
    assert axis_of([0.915, 0.982], percent=True).ticks() == pytest.approx([0.92, 0.94, 0.96, 0.98])
    log = density_axis([1.0, 0.02])
    assert log.log and [log.write(t) for t in log.ticks()] == [
        "2%",
        "5%",
        "10%",
        "20%",
        "50%",
        "100%",
    ]
    assert not density_axis([1.0, 0.2]).log
    assert Axis(low=0, high=60_000).write(20_000) == "20k"
    for values in ([], [3.0], [0.0, 0.0], [float("nan")], [-2.0, 5.0], [1e-9, 2e-9]):
        axis = axis_of(values)
        assert axis.low < axis.high and 2 <= len(axis.ticks()) <= 8
    for least in (1e-5, 1e-3, 0.03, 0.049):
        assert 3 <= len(density_axis([least, 1]).ticks()) <= 7


def decode(png: bytes) -> np.ndarray:
    """The levels of a PNG as `write_png` makes them; checks its sums."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        name, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert zlib.crc32(name + content) == struct.unpack(">I", png[at + 8 + size :][:4])[0]
        parts[name], at = content, at + 12 + size
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any() and len(parts[b"PLTE"]) == 3 * 256 == 3 * len(parts[b"tRNS"])
    return lines[:, 1:]


def test_pictures_hold_the_mask() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    np.testing.assert_array_equal(decode(write_png(levels)), levels)
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    dense = draw_mask(mask, Axes(stack=0, inputs=(0,), outputs=(1,)))
    assert dense.size == (5, 7) and "7 outputs (rows), 5 inputs (columns)" in dense.words
    kernel = draw_mask(np.ones((3, 3, 1, 4), bool), Axes(stack=0, inputs=(2,), outputs=(3,)))
    assert kernel.size == (7, 7) and "2 beside each other" in kernel.words
    looks = draw_inputs(np.ones((6, 9), bool), Axes(stack=0, inputs=(0,), outputs=(1,)), (2, 3))
    assert looks.size == (3, 2) and "9 to 9 of 9" in looks.words
    stacked = draw_mask(np.ones((3, 4, 5), bool), Axes(stack=1, inputs=(1,), outputs=(2,)))
    assert stacked.size == (4, 15)
    large = draw_mask(np.ones((2000, 900), bool), Axes(stack=0, inputs=(0,), outputs=(1,)))
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
