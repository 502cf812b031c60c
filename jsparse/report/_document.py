"""HTML of the pages: a whole document in one file, for screens small and large, dark, and paper."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

LIGHT = (
    "--paper:#fff;--ink:#1b2430;--soft:#566170;--line:#d9dfe7;--card:#f4f6f9;--bar:#9cc3ee;"
    "--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8508f;--c4:#222;--c5:#b97f00;--c6:#2b9fd9"
)
DARK = (
    "--paper:#12161c;--ink:#e6eaf0;--soft:#a3adba;--line:#333c48;--card:#1b212a;--bar:#2f5f93;"
    "--c0:#58b4f0;--c1:#ff8a3d;--c2:#3fd6a6;--c3:#e79ac9;--c4:#e6e6e6;--c5:#f0b93a;--c6:#9bd8fa"
)
CSS = f"""
:root{{color-scheme:light;{LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{color-scheme:dark;{DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:1080px;padding:16px;background:var(--paper);color:var(--ink);
font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
overflow-wrap:break-word;-webkit-text-size-adjust:100%}}
h1{{font-size:1.5rem;line-height:1.2;margin:.2em 0}}
h2{{font-size:1.15rem;margin:2em 0 .6em;border-bottom:1px solid var(--line);padding-bottom:.2em}}
p,ul{{margin:.5em 0}} .soft,figcaption small,td small{{color:var(--soft)}}
.cards{{display:grid;gap:10px;margin:1em 0;
grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}}
.card{{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px}}
.card b{{display:block;font-size:1.35rem;line-height:1.3}} .card span{{color:var(--soft)}}
.card small{{font-size:.9rem;font-weight:400;color:var(--soft);white-space:nowrap}}
.grid2{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:24px}}
figure{{margin:0;max-width:520px;min-width:0}} figcaption{{font-weight:600;margin-bottom:4px}}
figcaption small{{display:block;font-weight:400;font-size:.85rem}}
figure>svg{{display:block;width:100%;height:auto}}
svg text{{font-size:12px;fill:var(--soft)}} .end{{text-anchor:end}} .middle{{text-anchor:middle}}
.grid{{stroke:var(--line);fill:none}} .frame{{stroke:var(--soft);fill:none}}
.line{{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}}
.band{{opacity:.2}} .bar{{fill:none;stroke-width:1.4}} .mark{{stroke:var(--paper)}}
.keys{{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.85rem;margin:2px 0 0}}
.key{{display:inline-flex;align-items:center;gap:5px;min-width:0;overflow-wrap:anywhere}}
summary{{cursor:pointer}} .key svg{{flex:none}}
.scroll{{overflow-x:auto;margin:.8em 0;min-width:0}}
table{{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;width:100%}}
th,td{{padding:5px 8px;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}}
th{{color:var(--soft);font-weight:600;vertical-align:bottom}}
td{{white-space:nowrap}} table.text{{width:auto}}
th:first-child,td:first-child{{text-align:left;padding-left:0}}
td:first-child,table.text td,td small{{white-space:normal;overflow-wrap:anywhere}}
table.text td:first-child{{overflow-wrap:break-word}} table.text th{{overflow-wrap:anywhere}}
table.text th,table.text td{{text-align:left}} table.text td:first-child{{color:var(--soft)}}
tbody tr.total td{{font-weight:600;border-top:2px solid var(--soft)}}
td small{{display:block}} .fill{{display:block;height:7px;background:var(--line);min-width:60px}}
.fill i{{display:block;height:100%;background:var(--c0)}}
.mask{{display:block;width:100%;image-rendering:pixelated;border:1px solid var(--line)}}
.note{{border-left:4px solid var(--c5);background:var(--card);padding:8px 12px;margin:1em 0}}
footer{{margin-top:2.5em;color:var(--soft);font-size:.85rem}}
@media (max-width:480px){{th,td{{padding:5px 5px}} table{{font-size:.84rem}}}}
@media print{{:root{{color-scheme:light;{LIGHT}}} @page{{margin:14mm}}
body{{max-width:none;padding:0;font-size:10.5pt;print-color-adjust:exact;
-webkit-print-color-adjust:exact}} .scroll{{overflow:visible}}
h2{{break-after:avoid}} figure,tr,.card,.note{{break-inside:avoid}}
.grid2{{grid-template-columns:1fr 1fr}} .grid2>.scroll{{grid-column:1/-1}}}}
"""


def document(title: str, parts: Sequence[str]) -> bytes:
    """The whole page; needs nothing from anywhere else.

    Args:
      title: plain text.
      parts: HTML.
    """
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>\n"
    )
    whole = head + "\n".join(part for part in parts if part) + "\n</body></html>\n"
    return whole.encode(errors="replace")  # half a character, as a file's name may have


def section(title: str, *parts: str) -> str:
    """A heading and what follows, or nothing where nothing follows."""
    inside = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{inside}\n</section>" if inside else ""


def cards(numbers: Sequence[tuple[str, str]]) -> str:
    """Numbers, as HTML, in large letters, each with what it is."""
    body = "".join(
        f'<div class="card"><b>{number}</b><span>{escape(what)}</span></div>'
        for number, what in numbers
    )
    return f'<div class="cards">{body}</div>' if numbers else ""


def side_by_side(figures: Sequence[str]) -> str:
    """Figures beside each other where there is room."""
    return f'<div class="grid2">{"".join(figures)}</div>' if figures else ""


def rows(
    head: Sequence[str], body: Sequence[Sequence[str]], *, total: bool = False, text: bool = False
) -> str:
    """A table.

    Args:
      head: plain text.
      body: HTML of the cells.
      total: whether the last row is the sum of those above.
      text: whether all columns are text, not numbers.
    """
    if not body:
        return ""
    lines = []
    for n, cells in enumerate(body):
        mark = ' class="total"' if total and n == len(body) - 1 else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    kind = ' class="text"' if text else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{names}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def named(values: Mapping[str, Any]) -> str:
    """Settings or versions, one in a row."""
    return rows(
        ("name", "value"), [(escape(n), escape(write(v))) for n, v in values.items()], text=True
    )


def folded(title: str, inside: str) -> str:
    """What shows at a click on its title; not on paper."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def note(title: str, lines: Sequence[str]) -> str:
    """A list that stands out, or nothing where it is empty."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="note"><b>{escape(title)}</b><ul>{items}</ul></div>' if lines else ""


def write(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, list):
        return ", ".join(map(write, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def fill(fraction: float) -> str:
    """A bar as full as the fraction says."""
    return f'<span class="fill"><i style="width:{100 * fraction:.2f}%"></i></span>'


def bare_table(head: Sequence[str], body: Sequence[Sequence[str | float]]) -> str:
    """A table without the style of a page, as a notebook shows it; the last row is the total.

    Args:
      head: plain text.
      body: plain text, or a fraction, which is drawn as a bar too.
    """
    cell = '<td style="text-align:left{}">{}</td>'
    bar = (
        '<span style="display:block;width:80px;height:5px;background:rgba(128,128,128,.3)">'
        '<span style="display:block;height:5px;background:#2b7cd0;width:{:.2f}%"></span></span>'
    )
    lines = []
    for n, row in enumerate(body):
        last = ";border-top:1px solid;font-weight:bold" if n == len(body) - 1 else ""
        texts = [
            percent(one) + bar.format(100 * one) if isinstance(one, float) else escape(str(one))
            for one in row
        ]
        lines.append(f"<tr>{''.join(cell.format(last, text) for text in texts)}</tr>")
    names = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def percent(fraction: float) -> str:
    """A fraction in percent, with as many digits as small ones need."""
    return f"{fraction:.2%}" if fraction >= 0.001 or fraction == 0 else f"{100 * fraction:.2g}%"


def bytes_of(count: float) -> str:
    """Bytes in units that leave few digits."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def count_of(number: float) -> str:
    """A large number in units that leave few digits."""
    return _scaled(number, ("", "k", "M", "G", "T", "P")).strip()


def seconds_of(seconds: float) -> str:
    """A time in units that leave few digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _scaled(number: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if abs(number) < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.4g} {units[-1]}"
