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
