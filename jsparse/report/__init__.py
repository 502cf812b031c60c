"""Readers of sparse models: nothing here changes a model."""

from jsparse.report.comparison import compare as compare
from jsparse.report.density import Report as Report
from jsparse.report.density import Row as Row
from jsparse.report.efficiency import Costs as Costs
from jsparse.report.efficiency import accuracy_density as accuracy_density
from jsparse.report.efficiency import costs as costs
from jsparse.report.efficiency import hardness_density as hardness_density
from jsparse.report.entry import report as report
from jsparse.report.overlap import Overlap as Overlap
from jsparse.report.overlap import Stability as Stability
from jsparse.report.overlap import overlap as overlap
from jsparse.report.overlap import stability as stability
from jsparse.report.page import page as page
from jsparse.report.saving import save as save
from jsparse.report.saving import versions as versions
from jsparse.report.structure import Effective as Effective
from jsparse.report.structure import Structure as Structure
from jsparse.report.structure import effective as effective
from jsparse.report.structure import structure as structure
