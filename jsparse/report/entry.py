"""`jsparse.report`: the table of a model, and the pages of runs."""

from typing import final

from flax import nnx

from jsparse.report.comparison import compare
from jsparse.report.density import Report
from jsparse.report.density import report as count
from jsparse.report.page import page
from jsparse.report.saving import save


@final
class Entry:
    """What a model keeps and how it came about.

    `report(model)` is a table for terminal and notebook; `report.save(model, folder)` writes what a
    page needs; `report.page(folder)` and `report.compare(folders)` write HTML pages about runs.
    """

    save = staticmethod(save)
    page = staticmethod(page)
    compare = staticmethod(compare)

    def __call__(self, model: nnx.Module) -> Report:
        """See `jsparse.report.density.report`."""
        return count(model)

    def __repr__(self) -> str:
        return "jsparse.report: report(model), report.save, report.page, report.compare"


report = Entry()
"""`jsparse.report`."""
