"""One memory budget for several models: which of them are loaded whole, and how much of it each streamed one may use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a model takes where it computes: `peak` while it is loaded whole, `kept` afterwards, `least` streamed.

    `least` is None where it can't be streamed, `is_streamed` where it is to be in any case.
    """

    peak: int
    kept: int
    least: int | None = None
    is_streamed: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A precision that was looked at, the most that the model takes in it, and whether it fits, with all that share the memory."""

    precision: str
    nbytes: int
    fits: bool


def together(needs: Sequence[Need]) -> int:
    """The most that all of them take, loaded whole, one after the other."""
    before, most = 0, 0
    for need in needs:
        most, before = max(most, before + need.peak), before + need.kept
    return max(most, before)


def least_together(needs: Sequence[Need]) -> int:
    """The least that all of them can do with."""
    return min(_least(needs, streamed) for streamed in _ways(needs))


def share_out(needs: Sequence[Need], budget: int) -> list[int | None] | None:
    """For each model None, where it is loaded whole, or the bytes that it may take streamed; None for all where they don't fit.

    As few as possible are streamed, the largest first. What those get beyond their least goes by their sizes.
    """
    streamed = next((streamed for streamed in _ways(needs) if _least(needs, streamed) <= budget), None)
    if streamed is None:
        return None
    spare = budget - _least(needs, streamed)
    size = sum(needs[number].kept for number in streamed) or 1
    return [_share(need, spare * need.kept // size) if number in streamed else None for number, need in enumerate(needs)]


def _ways(needs: Sequence[Need]) -> Iterator[frozenset[int]]:
    """Which are streamed: those that are to be, then one more at a time."""
    largest_first = sorted((number for number, need in enumerate(needs) if need.least is not None), key=lambda number: -needs[number].kept)
    streamed = frozenset(number for number, need in enumerate(needs) if need.is_streamed)
    yield streamed
    for number in largest_first:
        streamed |= {number}
        yield streamed


def _least(needs: Sequence[Need], streamed: frozenset[int]) -> int:
    whole = [need for number, need in enumerate(needs) if number not in streamed]
    return together(whole) + sum(needs[number].least or 0 for number in streamed)


def _share(need: Need, spare: int) -> int:
    """Its least and a part of what is spare, but no more than the model itself."""
    least = need.least or 0
    return min(least + spare, max(need.peak, least))
