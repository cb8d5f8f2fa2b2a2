"""Lists of tensors, and differences between two checkpoints, as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import takewhile

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..loader.checkpoint import Checkpoint
from ..loader.diff import Change, DiffReport
from ..loader.tensors import TensorEntry
from ..loader.text import counted, format_bytes, format_count, printable
from .aligned import aligned
from .folding import folded

_MOST_LINES = 40  # of one kind of difference, folded
_MOST_VALUE = 60  # characters of a value that differs

# A difference: its name, and the values before and after where both sides have it.
_Line = tuple[str, ...]


def tensor_table(tensors: Sequence[TensorEntry], checkpoint: Checkpoint, *, width: int | None) -> Iterator[RenderableType]:
    """A row a tensor, and their sum. Where `width` columns do not hold the rows their files are left out first."""
    several = len(checkpoint.shards) > 1

    def cells(tensor: TensorEntry) -> tuple[str, ...]:
        row = (printable(tensor.name), tensor.dtype, str(list(tensor.shape)), f"{format_bytes(tensor.nbytes):>8}")
        return (*row, printable(tensor.file)) if several else row

    header = ("tensor", "dtype", "shape", f"{'bytes':>8}", "file")
    if tensors:
        yield from aligned(header if several else header[:-1], tensors, cells, width=width, droppable=several)
    elements = format_count(sum(tensor.numel for tensor in tensors))
    size = format_bytes(sum(tensor.nbytes for tensor in tensors))
    yield Text(f"{len(tensors):,} of {counted(len(checkpoint.tensors), 'tensor')}, {elements} elements, {size}", style="bold")


def diff_tables(report: DiffReport, *, unfold: bool, width: int | None) -> Iterator[RenderableType]:
    """The differences, kind by kind; those that layers and experts share are folded unless `unfold`."""
    if report.same:
        where = "config and headers" if report.glob is None and report.regex is None else "the headers of what was chosen"
        yield Text(f"no difference in {where} ({counted(report.common_tensors, 'tensor')})", style="green")
        return
    yield Text(f"{printable(report.reference)} (before) and {printable(report.other)} (after)", style="bold")
    kinds: dict[str, list[_Line]] = {
        "config": [_line(change) for change in report.config],
        "only before": [(printable(name),) for name in report.only_before],
        "only after": [(printable(name),) for name in report.only_after],
        "shape": [_line(change) for change in report.shapes],
        "dtype": [(printable(change.name), str(change.before), str(change.after)) for change in report.dtypes],
    }
    for label, lines in kinds.items():
        if lines:
            header = (f"{label} ({len(lines):,})", "before", "after")[: len(lines[0])]
            yield Text()
            yield from aligned(header, lines, lambda line: line, width=width) if unfold else _table(header, lines)
    yield Text()
    yield Text(f"{counted(report.common_tensors, 'tensor')} in both", style="dim")


def _table(header: Sequence[str], lines: Sequence[_Line]) -> Iterator[RenderableType]:
    """The lines, folded, and only the first ones where that leaves many."""
    rows = [(name, *values) for name, values, _ in folded((name, tuple(values)) for name, *values in lines)]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title, style in zip(header, (None, "red", "green"), strict=False):
        table.add_column(title, style=style, overflow="fold")
    for row in rows[:_MOST_LINES]:
        table.add_row(*map(Text, row))
    yield table
    if len(rows) > _MOST_LINES:
        yield Text(f"and {len(rows) - _MOST_LINES:,} more (--tensors lists all)", style="dim")


def _line(change: Change) -> _Line:
    """Name and both values, as JSON; of long ones the part in which they differ."""
    texts = ["-" if value is None else json.dumps(value, ensure_ascii=False) for value in (change.before, change.after)]
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
    start = max(0, equal - _MOST_VALUE // 4) if max(map(len, texts)) > _MOST_VALUE else 0
    before, after = (printable(("…" if start else "") + text[start:], limit=_MOST_VALUE) for text in texts)
    return printable(change.name), before, after
