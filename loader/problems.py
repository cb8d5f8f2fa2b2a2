"""What is wrong or odd in a checkpoint that can still be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


def first_few(severity: Literal["error", "warning"], code: str, message: str, places: Sequence[tuple[str | None, str]]) -> Iterator[Problem]:
    """A problem for each of the first few (tensor, file), and one that counts the rest."""
    for tensor, file in places[:_MOST_NAMED]:
        yield Problem(severity, code, message, file=file, tensor=tensor)
    if len(places) > _MOST_NAMED:
        yield Problem(severity, code, f"{len(places) - _MOST_NAMED:,} more like these: {message}")
