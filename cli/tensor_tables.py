"""Lists of tensors, and differences between two checkpoints, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..loader.checkpoint import Checkpoint
from ..loader.diff import Change, DiffReport
from ..loader.tensors import TensorEntry
from ..loader.text import format_bytes, format_count, printable

_MOST_LINES = 40  # of one kind of difference


def tensor_table(tensors: Sequence[TensorEntry], checkpoint: Checkpoint) -> Iterator[RenderableType]:
    """A row a tensor, and their sum."""
    several = len(checkpoint.shards) > 1
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("tensor")  # of all columns the only one that gives way
    table.add_column("dtype", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    if several:
        table.add_column("file", no_wrap=True, overflow="ellipsis", style="dim")
    for tensor in tensors:
        shard = (Text(printable(tensor.file, limit=60)),) if several else ()
        name = Text(printable(tensor.name), no_wrap=True, overflow="ellipsis")
        table.add_row(name, tensor.dtype, str(list(tensor.shape)), format_bytes(tensor.nbytes), *shard)
    yield table
    elements = sum(tensor.numel for tensor in tensors)
    size = format_bytes(sum(tensor.nbytes for tensor in tensors))
    yield Text(f"{len(tensors):,} of {len(checkpoint.tensors):,} tensors, {format_count(elements)} elements, {size}", style="bold")


def diff_tables(report: DiffReport) -> Iterator[RenderableType]:
    """The differences, kind by kind."""
    if report.same:
        yield Text(f"no difference in config and headers ({report.common_tensors:,} tensors)", style="green")
        return
    yield Text(f"{printable(report.reference)} (before) and {printable(report.other)} (after)", style="bold")
    yield from _changes("config", report.config)
    yield from _names("only before", report.only_before)
    yield from _names("only after", report.only_after)
    yield from _changes("shape", report.shapes)
    yield from _changes("dtype", report.dtypes)
    yield Text(f"{report.common_tensors:,} tensors in both", style="dim")


def _changes(label: str, changes: Sequence[Change]) -> Iterator[RenderableType]:
    if not changes:
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column(f"{label} ({len(changes):,})", no_wrap=True, overflow="ellipsis")
    table.add_column("before", style="red")
    table.add_column("after", style="green")
    for change in changes[:_MOST_LINES]:
        table.add_row(
            Text(printable(change.name)),
            *(Text("-" if value is None else printable(value, limit=60)) for value in (change.before, change.after)),
        )
    yield Text()
    yield table
    yield from _rest(len(changes))


def _names(label: str, names: Sequence[str]) -> Iterator[RenderableType]:
    if not names:
        return
    yield Text()
    yield Text(f"{label} ({len(names):,})", style="dim")
    for name in names[:_MOST_LINES]:
        yield Text(printable(name))
    yield from _rest(len(names))


def _rest(count: int) -> Iterator[RenderableType]:
    if count > _MOST_LINES:
        yield Text(f"and {count - _MOST_LINES:,} more (--json lists all)", style="dim")
