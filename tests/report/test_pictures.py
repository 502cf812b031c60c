"""Parts of pages: axes, pictures of masks, and numbers in few digits."""

import base64
import io
import re

import numpy as np
from PIL import Image

from jsparse.report._figures import Line, chart, input_picture, mask_picture
from jsparse.report._page import best
from jsparse.report._units import bytes_of, count_of, percent, seconds_of


def test_best_are_those_that_no_other_beats() -> None:
    point = lambda x, y: Line("", np.array([x]), np.array([y]), point=True)
    kept = best([point(1, 9), point(2, 8), point(2, 9.5), point(3, 9.5), point(0.5, 1)])
    assert [(p.x[0], p.y[0]) for p in kept] == [(0.5, 1), (1, 9), (2, 9.5)]


def ticks(values: list, y: str = "", steps: list | None = None) -> tuple[list[str], list[str]]:
    """What is written along the two axes of a chart."""
    x = np.array(steps if steps else range(len(values)))
    svg = chart("t", [Line("", x, np.array(values, float))], "step", y=y)["svg"]
    texts = re.findall(r">([^<>]*)</text>", svg)
    middle = texts.index("step")
    return texts[:middle], texts[middle + 1 :]


def test_axes_have_round_ticks() -> None:
    assert ticks([0.915, 0.982], "accuracy")[1] == ["92%", "94%", "96%", "98%"]
    assert ticks([1.0, 0.02], "density")[1] == ["2%", "5%", "10%", "20%", "50%", "100%"]
    assert ticks([1.0, 0.2], "density")[1][0] == "0%"
    assert ticks([0, 1, 1], steps=[0, 20_000, 60_000])[0] == ["0", "20k", "40k", "60k"]
    assert ticks([1], steps=[1])[0] == ["0", "1", "2"]
    assert ticks([0, 1], steps=[400, 1600])[0] == ["500", "1000", "1500"]
    for near in ([1e6, 1e6 + 1], [3e9, 3e9 + 10], [123456.1, 123456.9], [-4e6, 4e6], [2e-7, 3e-7]):
        shown = ticks(near)[1]
        assert len(set(shown)) == len(shown) >= 2, shown
    assert ticks([1] * 4, steps=[1, 2, 3, 4])[0] == ["1", "2", "3", "4"]
    for values in ([3.0], [0.0, 0.0], [float("nan")], [-2.0, 5.0], [1e-9, 2e-9], [1e308, -1e308]):
        assert 2 <= len(set(ticks(values)[1])) <= 8
    for least in (1e-5, 1e-3, 0.03, 0.049):
        assert 3 <= len(ticks([least, 1], "density")[1]) <= 7


def opacity(picture: dict) -> np.ndarray:
    """What the PNG of a picture holds: 0 is clear, 255 full."""
    content = base64.b64decode(picture["uri"].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))[..., 3]


def axes(stack: int, inputs: tuple, outputs: tuple) -> dict:
    return {"stack": stack, "inputs": inputs, "outputs": outputs}


def test_pictures_hold_the_mask() -> None:
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    dense = mask_picture("t", mask, axes(0, (0,), (1,)))
    np.testing.assert_array_equal(opacity(dense), 255 * mask.T)
    assert dense["size"] == (5, 7) and "7 outputs (rows), 5 inputs (columns)" in dense["words"]
    kernel = mask_picture("t", np.ones((3, 3, 1, 4), bool), axes(0, (2,), (3,)))
    assert kernel["size"] == (7, 7) and "2 side by side" in kernel["words"]
    shown = opacity(kernel)
    assert (shown[:3, :3] == 255).all() and (shown[3] == 70).all() and (shown[:, 3] == 70).all()
    looks = input_picture("t", np.ones((6, 9), bool), axes(0, (0,), (1,)), [2, 3])
    assert looks["size"] == (3, 2) and "9 to 9 of 9" in looks["words"]
    stacked = mask_picture("t", np.ones((3, 4, 5), bool), axes(1, (1,), (2,)))
    assert stacked["size"] == (4, 15)


def test_large_masks_shrink_and_keep_the_mean() -> None:
    mask = np.random.default_rng(0).random((2160, 960)) < 0.3
    large = mask_picture("t", mask, axes(0, (0,), (1,)))
    assert large["size"] == (720, 480)
    np.testing.assert_allclose(opacity(large).mean() / 255, mask.mean(), atol=1e-3)
    np.testing.assert_allclose(opacity(large)[0, 0] / 255, mask[:3, :2].mean(), atol=3e-3)


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
