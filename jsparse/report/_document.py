"""What a page is made of, and the template that shows it."""

import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsparse._checks import require
from jsparse._storage.files import write_whole
from jsparse.report._units import written

TEMPLATE = "_page.html.j2"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table, or a number at the top of a page.

    Attributes:
      text: what stands there.
      small: lines that stand below it, smaller.
      bar: a fraction to draw as a bar; below 0 for none.
    """

    text: str
    small: str = ""
    bar: float = -1.0


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      head: a name for each column.
      rows: a cell for each column; plain text stands for a cell.
      total: whether the last row is the sum of those above.
      text: whether all columns are text, not numbers.
      title: a line above; with `folded`, the line to click on.
      folded: whether it is shown only after a click.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    total: bool = False
    text: bool = False
    title: str = ""
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Key:
    """An entry of a legend: a mark, or the dash of a line, in one of the page's colours."""

    name: str
    colour: int
    mark: str = ""
    dash: str = "solid"


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart: its title, its SVG and its legend."""

    title: str
    svg: str
    keys: Sequence[Key] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture: its title, what rows and columns are, its PNG as a data URI, (width, height)."""

    title: str
    words: str
    uri: str
    size: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Width over height as shown: a picture a pixel high would not be seen."""
        return min(max(self.size[0] / self.size[1], 0.3), 8.0)


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with figures side by side where there is room, then tables; left out if empty."""

    title: str
    figures: Sequence[Chart | Picture | Table] = ()
    tables: Sequence[Table] = ()


def named(values: Mapping[str, Any], title: str = "") -> list[Table]:
    """Settings or versions, one per row; nothing where there are none."""
    rows = [(name, written(value)) for name, value in values.items()]
    return [Table(("name", "value"), rows, text=True, title=title)] if rows else []


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    missing: Sequence[str] = (),
    cards: Sequence[tuple[Cell, str]] = (),
) -> None:
    """Write a page that needs nothing from anywhere else.

    Args:
      path: of the HTML file.
      title: of the page.
      sections: in order.
      lead: a line below the title.
      missing: what the page cannot show.
      cards: numbers in large letters, each with what it is.

    Raises:
      ImportError: Jinja2 is not installed.
    """
    require("jinja2", extra="report", what="pages")
    import jinja2

    source = importlib.resources.files("jsparse.report").joinpath(TEMPLATE).read_text()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = environment.from_string(source).render(
        title=title, lead=lead, missing=missing, cards=cards, sections=sections
    )
    write_whole(path, text.encode(errors="replace"))  # half a character, as a file's name may have
