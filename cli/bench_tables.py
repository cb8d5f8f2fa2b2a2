"""A measurement as tables, for the screen or in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..loader.bench.report import BenchReport
from ..loader.bench.row import Row
from ..loader.text import printable
from .bench_columns import COMPARISON_TITLES, Column, comparison_cells, limits_line, phase_columns, result_columns, title_line

_LEGEND = (
    "seconds: from the process's start to the first answer, median (fastest to slowest); loading: without the start and imports",
    "peaks: over what the imports take; times the first: pair by pair, without waiting for cores (95 % interval)",
)


def tables(report: BenchReport, *, predicted: bool) -> Iterator[RenderableType]:
    """Headline, results, phases, what failed, and the comparison."""
    yield Text(title_line(report), style="bold cyan")
    yield Text(limits_line(report), style="dim")
    for columns in (result_columns(report, predicted=predicted), phase_columns(report)):
        if _measured(report):
            yield Text()
            yield _rich([column.title for column in columns], _cells(columns, _measured(report)))
    for row in report.rows:
        if row.problem is not None:
            yield Text.assemble((f"{row.case.label}: ", "yellow"), printable(row.problem, limit=500))
    if report.comparison is not None:
        yield Text(f"\nagainst {printable(report.comparison.baseline)}, in units of the calibration:")
        yield _rich(COMPARISON_TITLES, comparison_cells(report))
    yield Text()
    yield from (Text(line, style="dim") for line in _LEGEND)


def markdown_lines(report: BenchReport, *, predicted: bool) -> Iterator[str]:
    """The same as lines of Markdown."""
    yield f"{title_line(report)}. {limits_line(report)}."
    for columns in (result_columns(report, predicted=predicted), phase_columns(report)):
        if _measured(report):
            yield ""
            yield from markdown_table([column.title for column in columns], _cells(columns, _measured(report)))
    for row in report.rows:
        if row.problem is not None:
            yield ""
            yield f"{row.case.label}: {printable(row.problem, limit=500)}."
    if report.comparison is not None:
        yield ""
        yield from markdown_table(COMPARISON_TITLES, comparison_cells(report))


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of Markdown, a line at a time."""
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for cells in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _measured(report: BenchReport) -> list[Row]:
    return [row for row in report.rows if row.runs]


def _cells(columns: Sequence[Column], rows: Sequence[Row]) -> list[list[str]]:
    return [[printable(column.cell(row)) for column in columns] for row in rows]


def _rich(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place else "left", overflow="fold")
    for cells in rows:
        table.add_row(*cells)
    return table
