"""Pages of runs: what is on them, what is not, and what a damaged folder says."""

import base64
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.report import compare, page, save
from jsparse.report._figures import Line, chart, thinned
from jsparse.report._units import count_of, seconds_of

BAD = "<b>&\"x'#0072b2"  # a color of matplotlib too
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps texts, tags and links."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") or k.startswith("xlink")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def read(path: Path) -> Page:
    return Page(path.read_text())


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(48, 12, rngs=rngs)
        self.fc2 = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(nnx.relu(self.fc1(x.reshape(len(x), -1))))


def net() -> Net:
    return js.sparsify(Net(nnx.Rngs(0)), (".*/kernel", js.Top(density=0.25)))


def write_log(folder: Path, accuracy: list, density: list, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"epochs": 3, "alpha": 5e-4, "name": BAD}))
    rows = [
        {"step": n + 1, "accuracy": a, "density": d, "loss": 1 / (n + 1), **more}
        for n, (a, d) in enumerate(zip(accuracy, density, strict=True))
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A whole folder, with two seeds."""
    folder = tmp_path_factory.mktemp("pages") / "first<run>"
    accuracy, density = [[0.5, 0.6], [0.7, 0.8], [0.91, 0.93]], [[1, 1], [0.5, 0.4], [0.04, 0.02]]
    layers = {"fc1/kernel": [0.3, 0.4], "fc2/kernel": [0.2, 0.2]}
    write_log(folder, accuracy, density, layers=layers)
    model = net()
    with jax.numpy_dtype_promotion("standard"):
        plain = js.fold(model)
        save(model, folder, jnp.ones((2, 4, 4, 3)), forms={"folded": plain, "other": plain})
    return folder


def test_public_names_are_one() -> None:
    assert js.report.page is page and js.report.compare is compare and js.report.save is save


def test_every_number_is_on_the_page(run: Path) -> None:
    assert page(run) == run / "page.html"
    shown = read(run / "page.html")
    about = json.loads((run / "model.json").read_text())
    assert "92.00%" in shown.text and "± 1.41" in shown.text  # mean and deviation of 91 and 93
    assert "3.00%" in shown.text and "epoch 3 · 2 runs" in shown.text
    assert "25.00%" in shown.text and "144" in shown.text and "of 576" in shown.text
    total = about["costs"]["total"]
    for name in ("flops", "dense_flops"):
        assert count_of(total[name]) in shown.text
    for form in about["forms"]:
        assert {form["name"], seconds_of(form["seconds"]["median"])} <= set(shown.texts)
        assert f"{form['parameters']:,}" in shown.text
    for value in (*about["versions"].values(), "0.0005", "2×4×4×3", "fc1/kernel"):
        assert value in shown.text
    assert "Not on this page" not in shown.text
    assert (shown.tags.count("figure"), shown.tags.count("img")) == (4 + 3, 3)


def test_nothing_comes_from_elsewhere_and_names_are_escaped(run: Path) -> None:
    text = page(run).read_text()
    shown = Page(text)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in shown.links)
    assert not {"script", "link", "iframe", "b>"} & set(shown.tags)
    assert not re.search(r"https?:|@import|url\(", text)
    assert len(re.findall(" id=", text)) == len(set(re.findall(r' id="[^"]*"', text)))
    assert BAD in shown.text and BAD not in text and "first<run>" in shown.text


def test_tables_and_pictures_that_a_run_left_are_on_the_page(run: Path, tmp_path: Path) -> None:
    folder = write_log(tmp_path / "a", [0.5, 0.6], [1, 0.5])
    rows = [["dense", "1.00"], [BAD, "0.95"]]
    tables = [{"title": "return by sparsity:", "columns": ["arm", "mean"], "rows": rows}]
    (folder / "tables.json").write_text(json.dumps(tables))
    picture = base64.b64decode(read(page(run)).links[0].partition(",")[2])
    (folder / "before_and_after.png").write_bytes(picture)
    shown = read(page(folder))
    cells = ["return by sparsity:", "arm", "mean", "dense", "1.00", BAD, "0.95", "before and after"]
    assert all(cell in shown.texts for cell in cells)
    assert [base64.b64decode(link.partition(",")[2]) for link in shown.links] == [picture]


def test_pictures_are_files_and_none_hides_another(run: Path, tmp_path: Path) -> None:
    folder = write_log(tmp_path / "a", [0.5, 0.6], [1, 0.5])
    picture = base64.b64decode(read(page(run)).links[0].partition(",")[2])
    for name in ("a_b.png", "a b.png"):
        (folder / name).write_bytes(picture)
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to(folder / "absent")
    os.mkfifo(folder / "pipe.png")  # reading it would wait for ever
    links = read(page(folder)).links
    assert [base64.b64decode(link.partition(",")[2]) for link in links] == [picture] * 2


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "a", [0.5, 0.6], [1, 0.5])
    (folder / "settings.json").unlink()
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "accu')  # killed here
    text = read(page(folder)).text
    assert "no settings.json" in text and "no model.json" in text and "cut off" in text
    assert "60.00%" in text
    save(net(), folder)
    text = read(page(folder)).text
    assert "FLOPs: model.json was written without example inputs" in text and "latency" in text
    (folder / "log.jsonl").unlink()
    (folder / "masks.npz").unlink()
    text = read(page(folder)).text
    assert "no log.jsonl" in text and "no masks.npz" in text and "of 576" in text


def about(**more) -> bytes:
    """A model.json with hardly anything in it."""
    head = {"format": "jsparse.report", "version": 1, "layers": {}, "total": {}, "dense": 0}
    return json.dumps(head | {"learned": 0, "versions": {}} | more).encode()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("settings.json", b"{", "not JSON"),
        ("settings.json", b"[1]", "holds a list"),
        ("log.jsonl", b'{"step": 1\n{"step": 2}\n', "line 1 is not JSON"),
        ("log.jsonl", b'{"accuracy": 1}\n', 'line 1 has no number "step"'),
        ("log.jsonl", b'{"step": 1}\n{"step": NaN}\n', 'line 2 has no number "step"'),
        ("log.jsonl", b'{"step": 1, "accuracy": 91.3}\n', "accuracy 91.3 is not a fraction"),
        ("log.jsonl", b'{"step": 1, "layers": {"a": "b"}}\n', '"layers"'),
        ("log.jsonl", b'{"step": 1, "layers": {"a": []}}\n', "a list is empty"),
        ("log.jsonl", b'{"step": 1, "layers": [1]}\n{"step": 2, "layers": [1, 1]}\n', '"layers"'),
        ("log.jsonl", b'{"step": 1, "steps": 1, "trace": [[1]]}\n', '"steps" and "trace"'),
        ("log.jsonl", b'{"step": 1, "steps": [1, 2], "trace": [[1]]}\n', "2 steps, 1 lines"),
        (
            "log.jsonl",
            b'{"step":1,"a":[1,2]}\n{"step":2,"a":[1]}\n',
            "step 2 has 1 numbers for 'a'",
        ),
        ("model.json", b"\xff\xfe", "not JSON"),
        ("model.json", b'{"format": "other"}', "says 'other'"),
        (
            "model.json",
            b'{"format": "jsparse.report", "version": 1}',
            "the field layers is missing",
        ),
        ("model.json", about(layers={"a": {"kept": 1}}), "layers, 'a': the field shape is missing"),
        ("model.json", about(forms=[{"name": "a"}]), "forms[0]: the field parameters is missing"),
        ("model.json", about(versions=None), "versions is None, expected"),
        ("masks.npz", b"PK\x03\x04", "damaged"),
        ("masks.npz", b"", "damaged"),
        ("tables.json", b"[1", "write a list of objects with title, columns and rows"),
        ("tables.json", b"{}", "table 1: the field title is missing"),
        ("tables.json", b'{"title": "a", "columns": [], "rows": []}', "holds an object"),
        ("tables.json", b'[{"title": "a", "columns": ["b"], "rows": [[1]]}]', "rows is [[1]]"),
        ("tables.json", b'[{"title": "", "columns": ["b"], "rows": [[]]}]', "table 1 has a row"),
        ("map.png", b"GIF89a", "not a PNG file"),
    ],
)
def test_damaged_files_are_named(run: Path, tmp_path: Path, name, content, words) -> None:
    for file in ("settings.json", "log.jsonl", "model.json", "masks.npz"):
        (tmp_path / file).write_bytes((run / file).read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        page(tmp_path)
    assert name in str(caught.value)


def test_masks_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes((run / "model.json").read_bytes())
    other = js.sparsify(Net(nnx.Rngs(0)), (".*/kernel", js.Top(density=0.5)))
    save(other, tmp_path / "other")
    (tmp_path / "masks.npz").write_bytes((tmp_path / "other" / "masks.npz").read_bytes())
    with pytest.raises(ValueError, match="keeps a different number"):
        page(tmp_path)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        page(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither log\.jsonl nor model\.json; write one"):
        page(tmp_path)
    write_log(tmp_path / "inner", [0.5], [1])
    with pytest.raises(FileNotFoundError, match="pass one of its folders: inner"):
        page(tmp_path)
    with pytest.raises(ValueError, match="forms are timed on example inputs"):
        save(net(), tmp_path, forms={"folded": js.fold(net())})
    with pytest.raises(ValueError, match="pass one or more, each once"):
        compare([tmp_path / "inner"] * 2, tmp_path / "out.html")
    with pytest.raises(ValueError, match="pass one or more"):
        compare([])


def test_a_dense_run_and_a_run_that_got_lost_have_pages(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "lost", [[0.5, None], [0.6, float("nan")]], [[1, 1], [1, 1]])
    save(Net(nnx.Rngs(0)), folder)
    assert "nan" in read(page(folder)).text


def test_odd_but_whole_logs_have_pages(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": [1e308, -1e308], "runs": [0.1, 0.01], "layers": {"a": 0.5}},
        {"step": 2, "loss": [math.inf, None], "layers": {"a": None, "\ud800": 0.25}},
        {"step": 3, "accuracy": [math.inf, 0.5], "runs": ["x", "x"]},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "settings.json").write_text('{"held": {"a": 1}, "free": {}, "environments": null}')
    shown = read(page(tmp_path))
    assert {"0.1", "0.01", "a", "?"} <= {text.strip() for text in shown.texts}
    assert "inf%" in shown.text


def test_runs_that_diverged_are_named_and_large_integers_read(tmp_path: Path) -> None:
    rows = [
        '{"step": 1, "loss": [1, 2], "count": 1' + 400 * "0" + "}",
        '{"step": 2, "loss": [1, null]}',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(rows) + "\n")
    assert "loss: 1 of 2 runs diverged, the first at step 2" in read(page(tmp_path)).text


def test_a_long_log_makes_a_small_page(tmp_path: Path) -> None:
    rows = [{"step": n, "loss": [n % 7, 1], "layers": {"a": 0.5}} for n in range(20_000)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(page(tmp_path).read_bytes()) < 100_000


def test_a_lone_row_and_many_layers_can_be_seen(tmp_path: Path) -> None:
    write_log(tmp_path, [0.5], [1], Top5_rate=0.9)
    model = nnx.Sequential(*(nnx.Linear(2, 2, rngs=nnx.Rngs(0)) for _ in range(40)))
    save(js.sparsify(model, (".*/kernel", js.Top(density=0.5))), tmp_path)
    path = page(tmp_path)
    shown = read(path)
    assert "<use " in path.read_text() and "Top5 rate" in shown.texts  # a mark
    assert "and 12 more layers" in shown.texts and shown.text.count("2×2, Top") == 40


def test_thinned_lines_keep_peaks_gaps_and_bands() -> None:
    y = np.zeros(50_000)
    y[[1234, 40_000, 45_678]] = 9.0, -9.0, math.nan
    line = Line("a", np.arange(50_000), y, np.arange(50_000.0))
    thin = thinned(line)
    assert len(thin.x) == len(thin.y) == len(thin.spread) <= 1200
    assert list(thin.x) == sorted(thin.x) == list(thin.spread)
    at = dict(zip(thin.x, thin.y, strict=True))
    assert at[1234] == 9.0 and -9.0 in thin.y and math.isnan(at[45_678])
    short = Line("a", np.arange(2), np.arange(2.0))
    assert thinned(short) is short


def test_a_packed_form_weighs_what_it_stores(tmp_path: Path) -> None:
    model, x = Net(nnx.Rngs(0)), jnp.ones((2, 4, 4, 3))
    model.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    packed = js.export.pack(
        js.sparsify(model, (".*/kernel", js.Top(density=0.25))), js.export.csr()
    )
    save(model, tmp_path, x, forms={"packed": packed})
    (form,) = json.loads((tmp_path / "model.json").read_text())["forms"]
    kept = (48 * 12 + 12 * 4) // 4
    floats = kept + 16 + 2 * 4
    assert form["parameters"] == floats
    assert form["bytes"] == 4 * (floats + 2 * 4) + 2 * kept + 4 * (12 + 1 + 4 + 1)


def test_compared_folders_have_names_of_their_own(tmp_path: Path) -> None:
    outer = write_log(tmp_path / "a", [0.5], [1])
    inner = write_log(tmp_path / "a" / "a", [0.6], [1])
    shown = read(compare([outer, inner], tmp_path / "out.html"))
    assert {"a", "a/a"} <= {text.strip() for text in shown.texts}
    assert shown.texts.count("on the frontier") == 1
    assert "density" in shown.texts and "FLOPs" not in shown.texts  # no run knows them
    assert "A run: a" in read(compare([inner], tmp_path / "out.html")).text
    with pytest.raises(TypeError, match=r"must be a list of folders, such as \['runs/a'\]"):
        compare("runs/a")
    with pytest.raises(IsADirectoryError, match=r"pass a file, such as .*out\.html"):
        compare([inner], tmp_path)


def test_compared_runs_and_their_frontier(run: Path, tmp_path: Path) -> None:
    dense = write_log(tmp_path / "dense", [0.9, 0.95], [1, 1])
    worse = write_log(tmp_path / "worse", [0.5, 0.6], [0.9, 0.5])
    kinds = write_log(tmp_path / "kinds", [[0.5, 0.7]], [[0.1, 0.2]], runs=["low", "high"])
    (worse / "settings.json").write_text(json.dumps({"epochs": 3, "alpha": 1e-3, "name": BAD}))
    out = compare([run, dense, worse, kinds], tmp_path / "compare.html")
    shown = read(out)
    assert "95.00%" in shown.text and "60.00%" in shown.text and "0.001" in shown.text
    assert shown.texts.count("epoch 2 of 3") == 2  # "dense" and "worse" ended early
    assert "kinds, low" in shown.text and "kinds, high" in shown.text
    assert shown.texts.count("on the frontier") == 2  # the sparse run and the dense one
    assert shown.tags.count("figure") == 4
    (dense / "log.jsonl").write_text('{"step": 1, "loss": 2}\n')
    assert "no accuracy and no density" in read(compare([run, dense], out)).text


def test_a_line_breaks_where_a_value_is_not_a_number() -> None:
    line = Line(BAD, np.arange(4), np.array([1.0, math.nan, 2.0, 3.0]))
    drawn = chart("t", [line], "step")["svg"]
    (d,) = re.findall(r'</title>\s*<path d="([^"]*)"', drawn)
    assert (d.count("M"), d.count("L")) == (2, 1)  # a lone point, and from 2 to 3
    assert "nan" not in drawn and BAD in Page(drawn).text


def test_without_its_libraries_a_page_says_what_to_install(run: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *name: None)
    for make in (page, lambda folder: compare([folder])):
        with pytest.raises(ImportError, match="jsparse with its extra report"):
            make(run)


def test_importing_needs_no_library_of_pages() -> None:
    code = "import sys, jsparse.report; print({'matplotlib', 'jinja2', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_report_in_a_notebook() -> None:
    html = js.summary(
        js.sparsify(Net(nnx.Rngs(0)), ("fc1/kernel", js.Top(density=0.25)))
    )._repr_html_()
    shown = Page(html)
    assert {"fc1/kernel", "48×12", "Top", "25.00%", "144", "576"} <= set(shown.texts)
    assert "and 64 parameters without a rule" in shown.text
