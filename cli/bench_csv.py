"""A measurement as CSV: a line for every run, and one for a row that has none."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict

from ..loader.bench.report import BenchReport
from ..loader.bench.row import PHASES, Row
from ..loader.bench.run import Run
from ..loader.text import printable

_CASE = ("label", "engine", "strategy", "quantize", "device", "dtype", "workers", "page_cache")
_RUN = (
    "seconds",
    "load_seconds",
    "own_seconds",
    "own_load_seconds",
    "processor_seconds",
    *(f"{name}_seconds" for name in PHASES),
    *(f"imports_{kind}" for kind in ("anonymous", "mapped")),
    *(f"peak_{kind}" for kind in ("anonymous", "mapped", "device")),
    "resident_bytes",
    "read_bytes",
    *(f"predicted_{kind}" for kind in ("anonymous", "mapped", "device")),
    "first_token_seconds",
    "tokens_per_second",
)
COLUMNS = ("reference", "weight_bytes", *_CASE, "run", *_RUN, "problem")


def csv_lines(report: BenchReport) -> Iterator[str]:
    """The header, and the lines."""
    yield _line(COLUMNS)
    for row in report.rows:
        shared = {
            "reference": printable(report.reference),
            "weight_bytes": report.weight_bytes,
            "label": row.case.label,
            **asdict(row.case),
        }
        if row.problem is not None:
            yield _line([{**shared, "problem": printable(row.problem, limit=500)}.get(name, "") for name in COLUMNS])
        for number, run in enumerate(row.runs, 1):
            values = shared | {"run": number} | _values(run, row)
            yield _line([values.get(name, "") for name in COLUMNS])


def _values(run: Run, row: Row) -> dict[str, object]:
    predicted = {} if row.predicted is None else asdict(row.predicted)
    return {
        **{name: round(float(getattr(run, name)), 6) for name in _RUN[:5]},
        **{f"{name}_seconds": round(value, 6) for name, value in run.phases.items()},
        **{f"imports_{kind}": value for kind, value in asdict(run.imports).items()},
        **{f"peak_{kind}": value for kind, value in asdict(run.peak).items()},
        **{f"predicted_{kind}": value for kind, value in predicted.items()},
        "resident_bytes": run.resident,
        "read_bytes": run.read_bytes,
        **{name: run.facts.get(name) or "" for name in ("first_token_seconds", "tokens_per_second")},
    }


def _line(cells: list[object] | tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow("" if cell is None else cell for cell in cells)
    return text.getvalue()
