"""What a measured process tells of itself: a line of JSON for each phase that is over, and for each fact that outlasts it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from ..writing import write_all


class Phases:
    """Writes to the descriptor `to`. Times are of the machine's monotonic clock, which the process that listens has, too."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._last = time.monotonic()
        self._send({"phase": "start", "seconds": 0.0, "at": self._last})

    def end(self, name: str, *, at: float | None = None) -> None:
        """The phase `name` is over, now or since `at`; it began where the one before ended."""
        ended = time.monotonic() if at is None else at
        self._send({"phase": name, "seconds": ended - self._last, "at": ended})
        self._last = ended

    def end_several(self, seconds: Mapping[str, float], *, rest: str) -> None:
        """Several phases are over, of which these took so long; what else has passed since the one before is `rest`."""
        left = time.monotonic() - self._last - sum(seconds.values())
        for name, value in seconds.items():
            self.end(name, at=self._last + value)
        self.end(rest, at=self._last + max(left, 0.0))

    def tell(self, **facts: object) -> None:
        """Facts of this run, as plain values."""
        self._send(facts)

    def _send(self, message: Mapping[str, object]) -> None:
        write_all(self._to, json.dumps(message).encode() + b"\n")
