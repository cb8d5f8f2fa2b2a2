"""`mlload bench-load`: how long loading takes and how much memory, beside other loaders, in fresh processes watched from outside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .bench_options import (
    Compare,
    Csv,
    Devices,
    Dtypes,
    Engines,
    Markdown,
    MaxRegression,
    NewTokens,
    PageCaches,
    Plot,
    Predicted,
    Prompt,
    Quantizations,
    QuantizedCache,
    RemoveSynthetic,
    Runs,
    Save,
    Strategies,
    Subject,
    Synthetic,
    WarmUp,
    WorkerCounts,
    grid,
    share,
)
from .options import Debug, Json, Resident
from .output import note, print_json, print_tables

if TYPE_CHECKING:
    from ..loader.bench.report import BenchReport


def bench_load(
    model: Subject = None,
    synthetic: Synthetic = None,
    remove_synthetic: RemoveSynthetic = False,
    engine: Engines = "mlload",
    runs: Runs = 5,
    warm_up: WarmUp = 1,
    strategy: Strategies = None,
    quantize: Quantizations = "none",
    device: Devices = None,
    dtype: Dtypes = "auto",
    workers: WorkerCounts = "-1",
    page_cache: PageCaches = "warm",
    resident: Resident = None,
    cache: QuantizedCache = "off",
    prompt: Prompt = None,
    max_new_tokens: NewTokens = 16,
    predicted: Predicted = False,
    as_json: Json = False,
    as_csv: Csv = False,
    as_markdown: Markdown = False,
    plot: Plot = None,
    save: Save = None,
    compare: Compare = None,
    max_regression: MaxRegression = "10%",
    debug: Debug = False,
) -> None:
    """Measure how a model loads: seconds by phase, peak memory, bytes from storage; beside other loaders, run in turn.

    Options that take lists (with commas) make a grid: every combination is a row.
    """
    del debug  # read where errors are turned into lines
    from ..loader.bench.bench import bench_load as measure
    from ..loader.settings import parse_bytes
    from .progress import run_progress

    form = _form(as_json=as_json, as_csv=as_csv, as_markdown=as_markdown)
    asked = grid(engine=engine, strategy=strategy, quantize=quantize, device=device, dtype=dtype, workers=workers, page_cache=page_cache)
    limit = share(max_regression)
    _check_output(plot=plot, save=save)
    subject = _subject(model, synthetic, remove=remove_synthetic)
    with run_progress() as progress:
        report = measure(
            subject,
            asked,
            runs=runs,
            warm_up=warm_up,
            resident=None if resident is None else parse_bytes(resident),
            cache=cache,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            calibrated=save is not None,
            baseline=compare,
            max_regression=limit,
            reference=synthetic,
            progress=progress,
        )
    _show(report, form, predicted=predicted)
    _keep(report, plot=plot, save=save)
    report.check()


def _form(*, as_json: bool, as_csv: bool, as_markdown: bool) -> str:
    """The form that is asked for. Raises UsageError for two of them."""
    from ..loader.errors import UsageError

    forms = [name for name, asked in (("json", as_json), ("csv", as_csv), ("markdown", as_markdown)) if asked]
    if len(forms) > 1:
        raise UsageError(f"--{forms[0]} does not go with --{forms[1]}")
    return forms[0] if forms else "tables"


def _check_output(*, plot: Path | None, save: Path | None) -> None:
    """What is found out only after an hour's measuring is found out too late. Raises UsageError or MissingDependencyError."""
    from ..loader.errors import UsageError

    for path in (plot, save):
        if path is not None and not os.access(path.parent, os.W_OK):
            raise UsageError(f"{path} can't be written: {path.parent} is no folder to write in")
    if plot is not None:
        from .bench_plot import require_plotting

        require_plotting(plot)


def _subject(model: str | None, shape: str | None, *, remove: bool) -> str | Path:
    """What is to be loaded: the model, or the synthetic checkpoint, which is made if need be; or removed, which ends the command."""
    from ..loader.bench.synthetic import remove_synthetic, synthetic
    from ..loader.errors import UsageError
    from ..loader.text import format_bytes
    from .progress import byte_progress

    if (model is None) == (shape is None):
        raise UsageError("what is to be loaded?", hint="name a MODEL, or a shape with --synthetic")
    if shape is None:
        if remove:
            raise UsageError("--remove-synthetic wants to know what", hint="name a shape with --synthetic")
        return str(model)
    if remove:
        note(f"{format_bytes(remove_synthetic(shape))} removed")
        raise typer.Exit
    with byte_progress(f"writing {shape}") as progress:
        return synthetic(shape, progress)


def _show(report: BenchReport, form: str, *, predicted: bool) -> None:
    if form == "json":
        print_json(report.to_json())
    elif form == "csv":
        from .bench_csv import csv_lines

        print_tables(csv_lines(report))
    else:
        from .bench_tables import markdown_lines, tables

        print_tables(markdown_lines(report, predicted=predicted) if form == "markdown" else tables(report, predicted=predicted))
    for warning in report.warnings:
        note(f"warning: {warning}")


def _keep(report: BenchReport, *, plot: Path | None, save: Path | None) -> None:
    """Write the picture and the baseline, each whole or not at all."""
    from ..loader.writing import write_whole

    if save is not None:
        write_whole(save, json.dumps(report.to_json(), indent=2).encode() + b"\n")
    if plot is not None:
        from .bench_plot import plotted

        write_whole(plot, plotted(report, plot.suffix.removeprefix(".")))
