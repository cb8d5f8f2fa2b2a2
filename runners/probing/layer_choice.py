"""Which layers are meant: `0,6,12`, `-1`, `0:13:2`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...loader.errors import UsageError
from ...loader.text import printable

_NUMBER = re.compile(r"-?\d{1,6}")
_RANGE = re.compile(r"(-?\d{1,6})?:(-?\d{1,6})?(?::(-?\d{1,6}))?")


def choose_layers(asked: str | Iterable[int] | None, count: int) -> tuple[int, ...]:
    """The numbers meant, of 0 (the embeddings) to `count - 1`, in rising order; all for None.

    Numbers and ranges are Python's, negative ones counted from the end. Raises UsageError for what is none, or what is not there.
    """
    if asked is None:
        return tuple(range(count))
    parts = [part.strip() for part in asked.split(",")] if isinstance(asked, str) else [str(number) for number in asked]
    chosen = sorted({number for part in parts for number in _meant(part, count)})
    if not chosen:
        raise UsageError(f"no layer is in '{printable(asked, limit=40)}'", hint=f"they are 0 (the embeddings) to {count - 1}")
    return tuple(chosen)


def _meant(part: str, count: int) -> Iterable[int]:
    if _NUMBER.fullmatch(part):
        number = int(part)
        if not -count <= number < count:
            raise UsageError(f"there is no layer {number}", hint=f"they are 0 (the embeddings) to {count - 1}")
        return (number % count,)
    found = _RANGE.fullmatch(part)
    if found is None or found[3] == "0":
        raise UsageError(f"'{printable(part, limit=40)}' names no layers", hint="write 0,6,12 or -1 or 0:13:2")
    start, stop, step = (None if bound is None else int(bound) for bound in found.groups())
    return range(count)[slice(start, stop, step)]
