"""The columns of a measurement, once for the screen and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..loader.bench.report import BenchReport
from ..loader.bench.row import PHASES, Row
from ..loader.memory import Memory
from ..loader.text import counted, format_bytes, printable

_DASH = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """A title, what stands below it for a row, and whether it says anything of these rows."""

    title: str
    cell: Callable[[Row], str]
    is_wanted: Callable[[Sequence[Row]], bool] = lambda rows: True


def result_columns(report: BenchReport, *, predicted: bool) -> list[Column]:
    """What was measured of every row; columns in which nothing would stand are left out."""
    measured = [row for row in report.rows if row.runs]
    columns = [*_COLUMNS, Column("predicted", _predicted)] if predicted else _COLUMNS
    return [column for column in columns if column.is_wanted(measured)]


def phase_columns(report: BenchReport) -> list[Column]:
    """Median seconds of each phase that some row has."""
    names = [name for name in PHASES if any(name in row.phases for row in report.rows if row.runs)]
    return [_COLUMNS[0], *(Column(name.replace("_", " "), _phase(name)) for name in names)]


def limits_line(report: BenchReport) -> str:
    """What this machine can do."""
    limits = report.limits
    read = "" if limits.read is None else f", reads these files cold at {limits.read / 1e9:.2f} GB/s"
    return f"{report.machine['cores']} cores ({report.machine['processor']}); copies memory at {limits.copy / 1e9:.2f} GB/s{read}"


def title_line(report: BenchReport) -> str:
    """What was loaded, and how often."""
    runs = counted(max((len(row.runs) for row in report.rows), default=0), "run")
    return f"{printable(report.reference)}: {format_bytes(report.weight_bytes)} of weights in {report.tensors:,} tensors, {runs} each"


def comparison_cells(report: BenchReport) -> list[tuple[str, ...]]:
    """Row, measure, before, now, change, and what to think of it."""
    if report.comparison is None:
        return []
    cells = []
    for each in report.comparison.verdicts:
        values = [format_bytes(round(value)) if each.measure.endswith("bytes") else f"{value:.3f}" for value in (each.before, each.now)]
        verdict = "worse" if each.fell else "fine" if each.is_sure else "in doubt"
        cells.append((each.label, each.measure.replace("_", " "), *values, f"{each.ratio - 1:+.1%}", verdict))
    return cells + [(label, "", "", "", "", "no figures") for label in report.comparison.missing]


COMPARISON_TITLES = ("row", "measure", "before", "now", "change", "verdict")


def _seconds(row: Row) -> str:
    return f"{row.seconds.median:.2f} ({row.seconds.min:.2f} to {row.seconds.max:.2f})"


def _load_seconds(row: Row) -> str:
    return f"{row.load_seconds.median:.3f} ({row.load_seconds.min:.3f} to {row.load_seconds.max:.3f})"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return "1" if row.runs else _DASH
    interval = "" if row.ratio.low is None else f" ({row.ratio.low:.2f} to {row.ratio.high:.2f})"
    return f"{row.ratio.median:.2f}{interval}"


def _predicted(row: Row) -> str:
    if row.predicted is None:
        return _DASH
    return _memory(row.predicted)


def _memory(memory: Memory) -> str:
    device = f", {format_bytes(memory.device)} device" if memory.device else ""
    return f"{format_bytes(memory.anonymous)} anonymous, {format_bytes(memory.mapped)} mapped{device}"


def _phase(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row.phases[name]:.3f}" if row.phases.get(name) else _DASH


def _share_of_limit(row: Row) -> str:
    return _DASH if row.share_of_limit is None else f"{row.share_of_limit:.0%}"


def _first_token(row: Row) -> str:
    value = row.fact("first_token_seconds")
    return _DASH if value is None else f"{value:.3f}"


def _tokens(row: Row) -> str:
    value = row.fact("tokens_per_second")
    return _DASH if value is None else f"{value:.1f}"


_COLUMNS = [
    Column("", lambda row: row.case.label),
    Column("seconds", _seconds),
    Column("of it loading", _load_seconds),
    Column("times the first", _ratio, lambda rows: len(rows) > 1),
    Column("peak anonymous", lambda row: format_bytes(row.peak.anonymous)),
    Column("peak mapped", lambda row: format_bytes(row.peak.mapped)),
    Column("peak device", lambda row: format_bytes(row.peak.device), lambda rows: any(row.peak.device for row in rows)),
    Column("from storage", lambda row: format_bytes(row.read_bytes)),
    Column("GB/s", lambda row: f"{row.bytes_per_second / 1e9:.3g}"),
    Column("of the limit", _share_of_limit),
    Column("first token s", _first_token, lambda rows: any(row.fact("first_token_seconds") is not None for row in rows)),
    Column("tokens/s", _tokens, lambda rows: any(row.fact("tokens_per_second") is not None for row in rows)),
]
