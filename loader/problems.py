"""What is wrong or odd in a checkpoint that can still be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

_MOST_NAMED = 5  # of one kind, before the rest are only counted


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. An `error` would make loading fail or give a wrong model; a `warning` is worth knowing."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    file: str | None = None
    tensor: str | None = None


def first_few(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The first few of one kind of problem, and one that counts the rest."""
    every = list(problems)
    yield from every[:_MOST_NAMED]
    if len(every) > _MOST_NAMED:
        yield replace(every[0], message=f"{len(every) - _MOST_NAMED:,} more like these: {every[0].message}", file=None, tensor=None)
