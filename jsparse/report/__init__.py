"""Readers of sparse models: nothing here changes a model."""

from jsparse.report.density import Report as Report
from jsparse.report.density import Row as Row
from jsparse.report.density import report as report
