"""What loading tells while it goes on, where it was asked to be verbose: lines of Python's logging under the name `mlload`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

from .plan import Unit
from .settings import ModelLoadingConfig
from .text import format_bytes, printable

_LOGGER = logging.getLogger("mlload")


def tell(settings: ModelLoadingConfig, text: str) -> None:
    """Log `text` if `settings` ask for it; to stderr where logging has not been set up. Several ranks tell which one they are."""
    if not settings.verbose:
        return
    if not _LOGGER.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("mlload: %(message)s"))
        _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    rank = f"rank {settings.rank} of {settings.world_size}: " if settings.world_size > 1 else ""
    _LOGGER.info("%s%s", rank, printable(text, limit=500))


def telling(settings: ModelLoadingConfig, progress: Callable[[Unit], None] | None) -> Callable[[Unit], None] | None:
    """A `progress` that tells of every unit that is in place."""
    if not settings.verbose:
        return progress
    before = perf_counter()

    def tell_and_go_on(unit: Unit) -> None:
        nonlocal before
        now = perf_counter()
        tell(settings, f"{unit.name}: {format_bytes(unit.source_bytes)} read, {format_bytes(unit.target_bytes)} kept, {now - before:.3f} s")
        before = now
        if progress is not None:
            progress(unit)

    return tell_and_go_on
