"""Names chosen by glob or regular expression, in bounded time whatever the pattern."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from fnmatch import translate

from .errors import UsageError
from .text import counted, printable

_SECONDS = 2.0  # for one expression over all names
_NUMBERS = re.compile(r"\.\d+\.")
_MOST_COMPARED = 20_000  # names, in search of one like a pattern


def select(names: Iterable[str], *, glob: str | None = None, regex: str | None = None) -> list[str]:
    """The names that the glob matches whole and in which the regular expression finds something; all without either."""
    chosen = list(names)
    if glob is not None:
        chosen = select_glob(chosen, glob)
    return chosen if regex is None else select_regex(chosen, regex)


def select_glob(names: Iterable[str], pattern: str) -> list[str]:
    """The names that `pattern` (`*`, `?`, `[...]`) matches whole. Globs are translated without backtracking, so they can't hang."""
    try:
        match = re.compile(translate(pattern)).match
    except re.error as error:
        raise UsageError(f"'{pattern}' is not a pattern: {error.msg}") from None
    return [name for name in names if match(name)]


def select_regex(names: Iterable[str], pattern: str) -> list[str]:
    """The names in which the regular expression finds something. Raises UsageError for a bad one, or one that takes too long."""
    import regex  # the package, not `re`: it can stop an expression that backtracks without end

    deadline = time.monotonic() + _SECONDS
    found: list[str] = []
    try:
        compiled = regex.compile(pattern)
        for name in names:
            if compiled.search(name, timeout=max(0.001, deadline - time.monotonic())):
                found.append(name)
    except regex.error as error:
        raise UsageError(f"'{pattern}' is not a regular expression: {error}") from None
    except (TimeoutError, RecursionError):
        raise UsageError(
            f"the regular expression '{pattern}' takes too long", hint="make it simpler, or use a glob with --tensors"
        ) from None
    return found


def nearest(names: Sequence[str], pattern: str) -> str:
    """What to try where `pattern` chose none of the names: the glob that finds it inside them, or names that are like it."""
    from difflib import get_close_matches

    inside = f"*{pattern.strip('*^$')}*"
    found = len(select_glob(names, inside))
    if found:
        return f"'{inside}' matches {counted(found, 'tensor')}"
    kinds = {_NUMBERS.sub(".*.", name): name for name in reversed(names[:_MOST_COMPARED])}
    near = get_close_matches(_NUMBERS.sub(".*.", pattern), kinds, n=3, cutoff=0.0)
    return f"nearest: {', '.join(printable(kinds[kind]) for kind in near)}"
