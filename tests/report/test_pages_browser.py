"""Pages in a browser: nothing is wider than the screen, no text is tiny, all pictures load."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jsparse as js

playwright = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome")
MEASURE = """() => ({
    wide: document.documentElement.scrollWidth, screen: innerWidth,
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
    images: document.images.length,
    small: [...document.querySelectorAll('td,th,p,span,figcaption,small,svg text')]
        .filter(e => e.textContent.trim() && e.getBoundingClientRect().width)
        .map(e => parseFloat(getComputedStyle(e).fontSize) *
            (e.ownerSVGElement ? e.ownerSVGElement.getBoundingClientRect().width / 360 : 1))
        .reduce((a, b) => Math.min(a, b), 99),
    cut: [...document.querySelectorAll('figure > svg')].flatMap(s =>
        [...s.querySelectorAll('text')].filter(t => {
            const a = t.getBoundingClientRect(), b = s.getBoundingClientRect();
            return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1;
        }).map(t => t.textContent)),
    narrow: Math.min(...[...document.querySelectorAll('td:first-child')]
        .map(e => e.getBoundingClientRect().width)),
    scrolled: [...document.querySelectorAll('.scroll')]
        .filter(e => e.scrollWidth > e.clientWidth + 1).length,
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
})"""

LONG = "a_very_long_name_of_a_run_with_settings_lr=0.001_wd=1e-4"


def chromium(started):
    """The machine's Chromium; the test is left out where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        return started.chromium.launch(executable_path=path, args=["--no-sandbox"])
    except playwright.Error as error:
        pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as started:
        opened = chromium(started)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> list[Path]:
    """A page of a run and one of two, with long names."""
    top = tmp_path_factory.mktemp("pages")
    model = nnx.Sequential(*(nnx.Linear(8, 8, rngs=nnx.Rngs(n)) for n in range(3)))
    model = js.sparsify(model, (".*/kernel", js.Top(density=0.25)))
    for name, height in (("one", 0.9), (LONG, 0.95)):
        folder = top / name
        with jax.numpy_dtype_promotion("standard"):
            js.report.save(model, folder, jnp.ones((2, 8)), forms={"folded": js.fold(model)})
        settings = {"epochs": 3, "out": "runs/" + 12 * "a_long_folder/", "name": name}
        (folder / "settings.json").write_text(json.dumps(settings))
        rows = [
            {"step": n, "accuracy": [height, height - 0.1 / n], "density": [0.03 / n, 0.02]}
            for n in (1, 2, 3)
        ]
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        js.report.page(folder)
    folders = [top / "one", top / LONG]
    return [folders[0] / "page.html", js.report.compare(folders, top / "compare.html")]


def measure(browser, path: Path, width: int, media: str = "screen", scheme: str = "light") -> dict:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    shown = context.new_page()
    shown.on("request", lambda request: asked.append(request.url))
    shown.emulate_media(media=media, color_scheme=scheme)
    shown.goto(path.as_uri())
    found = shown.evaluate(MEASURE)
    context.close()
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    return found


@pytest.mark.parametrize("width", [390, 1200])
def test_all_is_in_sight(browser, pages, width) -> None:
    for path in pages:
        found = measure(browser, path, width)
        assert found["wide"] <= found["screen"] == width
        assert found["broken"] == 0 and found["cut"] == [] and found["scrolled"] == 0
        assert found["small"] >= 10.5
    assert measure(browser, pages[0], width)["images"] == 3


def brightness(color: str) -> float:
    return sum(float(part.strip(" rgba()")) for part in color.split(",")[:3]) / 3


def test_dark_on_a_dark_screen_and_light_on_paper(browser, pages) -> None:
    dark = measure(browser, pages[0], 390, scheme="dark")
    assert brightness(dark["paper"]) < 60 and brightness(dark["ink"]) > 180
    for path in pages:
        paper = measure(browser, path, 690, media="print", scheme="dark")
        assert brightness(paper["paper"]) > 240 and brightness(paper["ink"]) < 80
        assert paper["wide"] <= paper["screen"] and paper["cut"] == [] and paper["narrow"] > 50
