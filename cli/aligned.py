"""Rows of text in aligned columns, a line at a time: for tables that may have a hundred thousand rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.cells import cell_len
from rich.text import Text

_GAP = "  "

Item = TypeVar("Item")


def aligned(
    header: Sequence[str], items: Sequence[Item], cells: Callable[[Item], Sequence[str]], *, width: int | None, droppable: int = 0
) -> Iterator[Text | str]:
    """The header and a line for each item, in columns as wide as their widest cell.

    Where `width` does not hold them all, the last `droppable` ones are left out; where that does not do either, each first
    cell, the name, has a line of its own and the others stand below it.
    """
    widths = [cell_len(title) for title in header]
    for item in items:
        widths = [max(known, _width(cell)) for known, cell in zip(widths, cells(item), strict=True)]
    whole, fewer = len(header), len(header) - droppable
    for stacked, shown in ((False, whole), (False, fewer), (True, whole), (True, fewer)):
        if width is None or sum(column + len(_GAP) for column in widths[stacked:shown]) <= width + (not stacked) * len(_GAP):
            break
    yield Text(_line(header[:shown], widths, stacked=stacked), style="dim")
    for item in items:
        yield _line(cells(item)[:shown], widths, stacked=stacked)


def _line(cells: Sequence[str], widths: Sequence[int], *, stacked: bool) -> str:
    name, *rest = cells
    below = _GAP + _GAP.join(map(_padded, rest, widths[1:]))
    return (f"{name}\n{below}" if stacked else f"{_padded(name, widths[0])}{below}").rstrip()


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def _width(cell: str) -> int:
    return len(cell) if cell.isascii() else cell_len(cell)
