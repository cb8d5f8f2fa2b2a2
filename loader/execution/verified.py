"""Files of which every byte was checked once, known again by what can't stay the same when a file is changed."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from ..errors import InvalidCheckpointError, NotFoundError
from ..sources.local import Identity, read_small
from ..strict_json import parse_object
from ..writing import replacing

_NAME = "verified.json"
_MAX_BYTES = 10_000_000
_SECOND = 1_000_000_000


class Verified:
    """The names of files in one folder, each with its size, times and inode when it was right. Nothing of it ever raises."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._noted: dict[str, Identity] = {}
        self._kept = _read(self._path)

    def knows(self, name: str, identity: Identity) -> bool:
        """Whether the file of this name is the very one that was checked."""
        return self._kept.get(name) == list(identity)

    def note(self, name: str, identity: Identity) -> None:
        """Every byte of the file was checked, or has just been written."""
        self._noted[name] = identity

    def save(self) -> None:
        """Tell later processes. What is so young that it could change without getting another time is left out."""
        now = time.time_ns()
        noted = {name: list(identity) for name, identity in self._noted.items() if not _is_young(identity, now)}
        if noted:
            text = json.dumps({**self._kept, **noted}, separators=(",", ":")).encode()
            with suppress(OSError), replacing(self._path) as descriptor:
                os.write(descriptor, text)


def _read(path: Path) -> dict[str, object]:
    try:
        return parse_object(read_small(path, path.name, limit=_MAX_BYTES), file=path.name) if path.exists() else {}
    except (InvalidCheckpointError, NotFoundError):
        return {}


def _is_young(identity: Identity, now: int) -> bool:
    """Some systems count time in ticks of a few milliseconds, some in one or two seconds."""
    _, *times, _ = identity
    tick = _SECOND // 20 if any(stamp % _SECOND for stamp in times) else 2 * _SECOND
    return now - max(times) < tick
