"""Rows whose names differ only in numbers, folded: `model.layers.0 to 31.mlp.up_proj.weight`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")

Value = TypeVar("Value", bound=Hashable)


class _Row(NamedTuple, Generic[Value]):
    parts: tuple[str, ...]  # of the name, cut at its dots
    numbers: tuple[int, ...]  # where parts are numbers
    value: Value
    total: int  # rows that it stands for


def folded(rows: Iterable[tuple[str, Value]]) -> Iterator[tuple[str, Value, int]]:
    """Names with their values, and how many of `rows` each stands for: equal values at numbers that follow one another are one."""
    result = [_row(name, value) for name, value in rows]
    for place in range(1, 1 + max((len(row.numbers) for row in result), default=0)):
        result = list(_fold(result, place))
    for row in result:
        yield ".".join(row.parts), row.value, row.total


def _row(name: str, value: Value) -> _Row[Value]:
    parts = tuple(name.split("."))
    return _Row(parts, tuple(at for at, part in enumerate(parts) if _NUMBER.fullmatch(part)), value, 1)


def _fold(rows: Iterable[_Row[Value]], place: int) -> Iterator[_Row[Value]]:
    """Runs of the number at `place`, counted from a name's end, joined."""
    groups: dict[Hashable, list[_Row[Value]]] = {}
    for row in rows:
        at = row.numbers[-place] if place <= len(row.numbers) else len(row.parts)
        groups.setdefault((row.parts[:at], row.parts[at + 1 :], row.value, at == len(row.parts)), []).append(row)
    for group in groups.values():
        if place <= len(group[0].numbers):
            yield from _runs(group, group[0].numbers[-place])
        else:
            yield from group


def _runs(group: Iterable[_Row[Value]], at: int) -> Iterator[_Row[Value]]:
    ordered = sorted(group, key=lambda row: int(row.parts[at]))
    for _, numbered in groupby(enumerate(ordered), key=lambda pair: int(pair[1].parts[at]) - pair[0]):
        run = [row for _, row in numbered]
        first, last = run[0], run[-1]
        span = first.parts[at] if len(run) == 1 else f"{first.parts[at]} to {last.parts[at]}"
        yield first._replace(parts=(*first.parts[:at], span, *first.parts[at + 1 :]), total=sum(row.total for row in run))
