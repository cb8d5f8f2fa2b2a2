"""What is wrong or odd in a checkpoint that can still be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

_MOST_NAMED = 5  # of one kind, before the rest are only counted


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. An `error` would make loading fail or give a wrong model; a `warning` is odd; a `note` is no fault."""

    severity: Literal["error", "warning", "note"]
    code: str
    message: str
    file: str | None = None
    tensor: str | None = None


def first_few(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The first few of one kind of problem, and one that counts the rest."""
    left = iter(problems)
    named = list(islice(left, _MOST_NAMED))
    yield from named
    rest = sum(1 for _ in left)  # there may be a million: none of them is kept
    if rest:
        yield replace(named[0], message=f"{rest:,} more like these: {named[0].message}", file=None, tensor=None)
