"""The forms that a measurement is shown in."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

import pytest
from bench_rows import a_report, a_row
from rich.console import Console

from mlload import BenchReport
from mlload.cli.bench_csv import COLUMNS, csv_lines
from mlload.cli.bench_tables import markdown_lines, tables
from mlload.loader.bench.case import Case
from mlload.loader.bench.comparison import Comparison, Verdict
from mlload.loader.bench.row import Row

HOSTILE = "[/red]\x1b[2J|\u202e"
VERDICTS = (
    Verdict("mlload", "seconds", 4.0, 4.8, 1.2, fell=True, is_sure=True),
    Verdict("mlload", "anonymous_bytes", 1 << 20, 1 << 20, 1.0, fell=False, is_sure=True),
    Verdict("mlload", "load_seconds", 1.0, 1.09, 1.09, fell=False, is_sure=False),
)


@pytest.fixture
def report() -> BenchReport:
    failed = Row(Case("runai"), (), 1000, problem=f"no {HOSTILE}", exit_code=6)
    held = Comparison("base.json", 0.1, VERDICTS, ("transformers",))
    return a_report(a_row([4.0, 5.0, 4.5]), a_row([8.0, 8.5, 9.0], engine="transformers"), failed, comparison=held, reference=HOSTILE)


def screen(report: BenchReport) -> str:
    console = Console(width=200, markup=False, highlight=False, emoji=False, no_color=True)
    with console.capture() as captured:
        for part in tables(report, predicted=True):
            console.print(part)
    return captured.get()


def markdown_rows(report: BenchReport) -> Iterator[list[str]]:
    for line in markdown_lines(report, predicted=True):
        if line.startswith("|"):
            yield re.split(r"(?<!\\) ?\| ?", line)[1:-1]


def test_the_screen_shows_rows_failures_and_verdicts(report: BenchReport) -> None:
    text = screen(report)
    assert r"[/red]\x1b[2J|\u202e: 0.977 KiB of weights in 3 tensors, 3 runs each" in text
    assert "2 cores (a processor); copies memory at 2.00 GB/s, reads these files cold at 1.00 GB/s" in text
    assert "4.50 (4.00 to 5.00)" in text
    assert r"runai: no [/red]\x1b[2J" in text
    assert re.search(r"mlload +seconds +4\.000 +4\.800 +\+20\.0% +worse", text)
    assert re.search(r"mlload +load seconds +1\.000 +1\.090 +\+9\.0% +in doubt", text)
    assert re.search(r"transformers +no figures", text)


def test_markdown_tables_have_as_many_cells_everywhere(report: BenchReport) -> None:
    rows = list(markdown_rows(report))
    assert {len(row) for row in rows[:4]} == {len(rows[0])}
    assert rows[2][:2] == ["mlload", "4.50 (4.00 to 5.00)"]
    assert "predicted" in rows[0]


def test_csv_has_a_line_for_every_run_and_every_failure(report: BenchReport) -> None:
    lines = list(csv.DictReader(csv_lines(report)))
    assert [(line["label"], line["run"]) for line in lines] == [
        *(("mlload", number) for number in "123"),
        *(("transformers", number) for number in "123"),
        ("runai", ""),
    ]
    assert set(lines[0]) == set(COLUMNS)
    assert lines[-1]["problem"] == r"no [/red]\x1b[2J|\u202e"
    assert float(lines[0]["own_seconds"]) == 4.0


@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_drawn(report: BenchReport, form: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    from mlload.cli.bench_plot import plotted

    assert plotted(report, form).startswith(start)
