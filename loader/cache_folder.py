"""The folder in which mlload keeps what it has made, for the next time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path | None:
    """The folder for one kind of thing: below MLLOAD_CACHE, else in the user's cache; None for a user without a home."""
    if own := os.environ.get("MLLOAD_CACHE"):
        return Path(own) / part
    users = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return users / "mlload" / part if users.is_absolute() else None
