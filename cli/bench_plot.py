"""A measurement as a picture: seconds as bars with their spread, and memory over time."""

from __future__ import annotations

import io
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..loader.bench.report import BenchReport
from ..loader.bench.row import Row
from ..loader.errors import MissingDependencyError, UsageError
from ..loader.text import printable

_FORMATS = (".png", ".svg", ".pdf")
_GIB = 1 << 30


def require_plotting(path: Path) -> None:
    """Raises MissingDependencyError without matplotlib, UsageError for a file of a kind that is not drawn."""
    if path.suffix not in _FORMATS:
        raise UsageError(f"'{path}' is no picture", hint=f"end its name in {', '.join(_FORMATS)}")
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("pictures need matplotlib", hint='pip install "mlload[plot]"')


def plotted(report: BenchReport, form: str) -> bytes:
    """The picture's file."""
    figures: Any = import_module("matplotlib.figure")  # without pyplot: no window, nothing global
    rows = [row for row in report.rows if row.runs]
    figure = figures.Figure(figsize=(11, 2.5 + 0.45 * len(rows) + 3.5), layout="constrained")
    figure.suptitle(printable(report.reference), parse_math=False)
    bars, memory = figure.subplots(2, 1, height_ratios=(1.2 + 0.45 * len(rows), 4.5))
    _draw_bars(bars, rows)
    _draw_memory(memory, rows)
    picture = io.BytesIO()
    figure.savefig(picture, format=form, dpi=120)
    return picture.getvalue()


def _draw_bars(axes: Any, rows: list[Row]) -> None:
    """Imports and the interpreter's start pale, loading full; whiskers from the fastest run to the slowest."""
    for place, row in enumerate(rows):
        whole, load = row.seconds, row.load_seconds.median
        axes.barh(place, whole.median - load, color=f"C{place % 10}", alpha=0.3)
        whiskers = [[whole.median - whole.min], [whole.max - whole.median]]
        axes.barh(place, load, left=whole.median - load, color=f"C{place % 10}", xerr=whiskers, capsize=3)
    axes.set_yticks(range(len(rows)), [row.case.label for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("seconds to the first answer (pale: start and imports), median, fastest and slowest")


def _draw_memory(axes: Any, rows: list[Row]) -> None:
    """The run in the middle of each row."""
    for place, row in enumerate(rows):
        seconds, anonymous, mapped = zip(*row.typical.timeline, strict=True)
        axes.plot(seconds, [value / _GIB for value in anonymous], color=f"C{place % 10}", label=f"{row.case.label}, anonymous")
        axes.plot(seconds, [value / _GIB for value in mapped], color=f"C{place % 10}", linestyle="--", label=f"{row.case.label}, mapped")
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident GiB")
    if rows:
        axes.legend(fontsize="small")
