"""The documentation: its code runs, every public name has an entry, links resolve.

The site runs its notebooks when it is built, and an error in one fails the build.

What needs Sphinx or a kernel is slow and left out where the extra `docs` is not installed.
"""

import fcntl
import html.parser
import json
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from docs import address
from docs._ext.names import public
from tests.support.snippets import CODE, run

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
LONG = {
    "accumulation",
    "agents",
    "average",
    "budget",
    "coming",
    "decay",
    "deploy",
    "freezing",
    "heads",
    "ninety",
    "precision",
    "pretrained",
    "pruning",
    "quantized",
    "recall",
    "resume",
    "revisions",
    "shrinking",
    "start",
    "surgery",
    "training",
    "truly_sparse",
    "units",
}  # seconds of compiling


def pages_with_code() -> list:
    """Those with code: what it needs must stand on the page too."""
    slow = lambda page: [pytest.mark.slow] if page.stem in LONG else []
    return [pytest.param(p, id=p.stem, marks=slow(p)) for p in PAGES if CODE.search(p.read_text())]


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("page", pages_with_code())
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what it saves
    assert run(page)


def test_every_public_name_is_found() -> None:
    found = {name for names in public().values() for name in names}
    for name in ("jsparse.tree.plan", "jsparse.schedule.cubic", "jsparse.Conv", "jsparse.roles"):
        assert name in found


def test_every_room_has_a_page() -> None:
    asked = [
        room
        for page in (DOCS / "api").glob("*.rst")
        for line in re.findall(r"^\.\. public:: (.*)$", page.read_text(), re.MULTILINE)
        for room in line.split()
    ]
    assert sorted(asked) == sorted(public())


def test_every_rule_revision_and_pruning_method_is_described() -> None:
    described = "".join(
        (DOCS / f"{n}.md").read_text() for n in ("rules", "revisions", "pruning", "units")
    )
    shown = set(re.findall(r"^```\{steps\} jsparse\.(\S+)$", described, re.MULTILINE))
    shared = {"rule", "revision", "transform", "step", "pairs", "pause", "keep"}
    shared |= {"activity", "torch_style", "calibration", "choice", "folder", "rounds", "weights"}
    shared |= {"remaining", "stacked", "moments", "magnitude", "random", "__init__"}  # no steps
    shared |= {"inputs", "sweep"}  # of the calibration
    shared |= {"by_name", "layers"}  # groups for rules and penalties, and under revisions
    shared |= {"costs"}  # of a search
    shared |= {"members", "activations", "gradients"}  # of importances
    for room in ("rules", "_revise", "importance", "prune"):
        for file in (ROOT / "jsparse" / room).glob("*.py"):
            known = file.stem in shared or file.stem.lstrip("_") in shared
            assert known or f"{room}.{file.stem}" in shown, f"{room}/{file.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_says_where_it_is(path: Path) -> None:
    book = json.loads(path.read_text())
    first, install = ("".join(cell["source"]) for cell in book["cells"][:2])
    assert (book["nbformat"], book["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert "versions()" in install
    if url := address.address():
        assert address.badge(url, path.name) in first and f"git+{url}" in install
    else:
        assert address.UPLOAD in first and "%pip install -q jsparse-*.whl" in install
    code = "".join("".join(cell["source"]) for cell in book["cells"])
    assert code.count("JSPARSE_QUICK") == 1 and "experiments" not in code


def test_the_address_is_written_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, *books = (tmp_path / path.name for path in (address.PROJECT, *NOTEBOOKS))
    for copy, path in zip((project, *books), (address.PROJECT, *NOTEBOOKS), strict=True):
        copy.write_text(path.read_text())
    monkeypatch.setattr(address, "PROJECT", project)
    monkeypatch.setattr(address, "NOTEBOOKS", books)
    for url in ("https://github.com/me/sparse", "https://github.com/you/jsparse"):  # twice
        address.main(url)
        assert address.address() == url
        for copy in books:
            text = copy.read_text()
            assert text.count(address.badge(url, copy.name)) == text.count(f"git+{url}") == 1
            assert "Upload notebook" not in text and text.count("github.com/me") in (0, 1)
    assert "/me/" not in "".join(copy.read_text() for copy in (project, *books))
    with pytest.raises(SystemExit, match="give an address"):
        address.main("https://example.com/me/sparse")


def test_nothing_names_an_address_that_is_not_known() -> None:
    shown = [ROOT / "README.md", ROOT / "pyproject.toml", *PAGES, *NOTEBOOKS]
    assert [path.name for path in shown if "_owner_" in path.read_text()] == []


class Links(html.parser.HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src") and value and tag != "base":
                self.links.append(value)


@pytest.fixture(scope="module")
def site() -> Path:
    """The built site, whose notebooks ran; one build, also where several workers ask for it."""
    pytest.importorskip("sphinx_book_theme")
    pytest.importorskip("myst_nb")
    out = DOCS / "_build" / "html"
    out.mkdir(parents=True, exist_ok=True)
    with (out.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(DOCS), str(out)]
        known = {**os.environ, "JSPARSE_QUICK": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=known)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_a_prime_stands_beside_its_letter() -> None:
    mathml = pytest.importorskip("docs._ext.mathml").mathml
    small = mathml(r"W_{ij}^{\prime} = W^{\prime} x_i^2")
    assert small.count("′") == small.count(">′</mo></mrow>") == 2
    assert (small.count("<msub>"), small.count("<msubsup>"), small.count("<msup>")) == (1, 1, 0)


@pytest.mark.slow
def test_links_inside_resolve_and_every_name_has_an_entry(site: Path) -> None:
    pages = {
        path: Links(path.read_text())
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    assert len(pages) > 25
    for page, found in pages.items():
        for link in found.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            target = (
                (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
            )
            assert target.exists(), f"{page.name}: {link}"
            if parts.fragment and target in pages:
                anchor = urllib.parse.unquote(parts.fragment)
                assert anchor in pages[target].anchors or anchor == "", f"{page.name}: {link}"
    entries = set().union(
        *(found.anchors for page, found in pages.items() if page.parent.name == "api")
    )
    for names in public().values():
        assert set(names) <= entries


@pytest.mark.slow
def test_sphinx_replaces_no_page_by_one_of_its_own(site: Path) -> None:
    for page in PAGES:  # as it does with search.html, without a warning
        (title,) = re.findall(r"^# (.*)$", CODE.sub("", page.read_text()), re.M)
        built = html.unescape((site / f"{page.stem}.html").read_text())
        assert f"<h1>{title}<" in built, page.name


MEASURE = """() => ({
    wide: document.documentElement.scrollWidth, screen: innerWidth,
    equations: [...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().width),
})"""


@pytest.mark.slow
def test_pages_fit_the_screen_and_ask_for_nothing(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    from tests.report.test_pages_browser import chromium

    pages = [p for p in site.rglob("*.html") if p.parent.name in ("html", "api", "notebooks")]
    with playwright.sync_playwright() as started:
        browser = chromium(started)
        for width in (390, 1200):
            shown = browser.new_page(viewport={"width": width, "height": 800})
            asked: list[str] = []
            shown.on("request", lambda request, asked=asked: asked.append(request.url))
            for page in pages:
                shown.goto(page.as_uri())
                found = shown.evaluate(MEASURE)
                assert found["wide"] <= found["screen"] == width, page.name
                assert all(found["equations"]), page.name
                assert (
                    page.name != "rules.html" or len(found["equations"]) > 10 or "api" in page.parts
                )
            badge = "https://colab.research.google.com/assets/colab-badge.svg"
            assert {url for url in asked if not url.startswith(("data:", "file:"))} <= {badge}
        browser.close()


def test_no_page_is_left_unfinished() -> None:
    for page in (ROOT / "README.md", *DOCS.rglob("*.md"), *DOCS.rglob("*.rst")):
        if "_build" not in page.parts:
            found = re.findall(
                r"\{readme\}|\bMINUTES\b|\bTODO\b|^[A-Z]+_TABLE$", page.read_text(), re.M
            )
            assert found == [], page.name
