"""Names chosen by glob or regular expression, in bounded time whatever the pattern."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from fnmatch import translate

from .errors import UsageError

_SECONDS = 2.0  # for one expression over all names


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
