"""Untrusted strings made safe to show, and numbers made short to read."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

# Categories that can move the cursor, hide text or reverse its direction: control, format (bidirectional marks
# among them), surrogates, private use, line and paragraph separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def printable(text: object, *, limit: int = 200) -> str:
    r"""`text` on one line: control and bidirectional characters as `\x1b`, and at most `limit` characters."""
    raw = str(text)
    shown = raw if len(raw) <= limit else raw[: limit - 1] + "…"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(_escaped(char) if unicodedata.category(char) in _UNSAFE_CATEGORIES else char for char in shown)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def counted(count: int, noun: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_bytes(count: int) -> str:
    """Bytes in binary units with three significant digits: `1.23 GiB`."""
    value, unit = _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"


def format_count(count: int) -> str:
    """A count in decimal units with three significant digits: `8.03 B` for eight billion."""
    value, unit = _scaled(count, 1000, ("", "K", "M", "B", "T"))
    return str(count) if unit == "" else f"{value:.3g} {unit}"


def _scaled(count: int, step: int, units: Sequence[str]) -> tuple[float, str]:
    """`count` in the largest of the units that leaves it below a thousand, as far as they go."""
    value, place = float(count), 0
    while value >= 999.5 and place < len(units) - 1:
        value, place = value / step, place + 1
    return value, units[place]


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """`Did you mean ...?` with the nearest of the `known` words, or None where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else None
