"""Progress of loading, unit by unit, on stderr of a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..loader.plan import LoadPlan, Unit
from ..loader.text import printable


@contextmanager
def unit_progress(plan: LoadPlan) -> Iterator[Callable[[Unit], None]]:
    """A bar with rate and time left while units come in; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda unit: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.fields[unit]}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("load", total=plan.source_bytes, unit="")
        yield lambda unit: bars.update(task, advance=unit.source_bytes, unit=printable(unit.name, limit=40))


@contextmanager
def byte_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes that are written: how many more, of how many; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda size, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(what, markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("write", total=None)
        yield lambda size, total: bars.update(task, advance=size, total=total)


@contextmanager
def run_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for runs: what runs now, how many are done, of how many; silent where stderr is no terminal.

    It is drawn between runs only: a bar that moves would take time from the process that is measured.
    """
    if not sys.stderr.isatty():
        yield lambda label, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bars:
        task = bars.add_task("", total=None)
        yield lambda label, done, total: bars.update(task, description=printable(label), completed=done, total=total, refresh=True)


@contextmanager
def text_progress(count: Callable[[], int | None]) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left while texts are computed, of as many as `count` says; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda texts: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("texts"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("texts", total=count(), rate="")

        def heard(texts: int) -> None:
            speed = bars.tasks[task].speed
            bars.update(task, advance=texts, rate="" if speed is None else f"{speed:,.0f} a second")

        yield heard
