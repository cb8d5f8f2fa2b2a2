"""How long a process was held up by others: its threads wanted cores and did not get them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_SECONDS = 0.25  # between two times that all threads are asked: long beside the turns of the scheduler, which counts a wait when it ends
_COST = 100  # asking takes no more than one part in so many


class Threads:
    """The threads below a process's `task` folder, each with the time that it ran and that it waited to run, as the scheduler counts."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._known: dict[str, tuple[int, int]] = {}  # nanoseconds that each thread has run and waited
        self._asked = self._next = time.monotonic()
        self._held_up = 0.0
        self._cores = len(os.sched_getaffinity(0))

    def held_up(self, at: float, *, anew: bool) -> float:
        """Seconds lost so far, as of now if `anew` is true or it has been a while since the threads were asked."""
        if anew or at >= self._next:
            begun = time.monotonic()
            self._ask(at)
            self._next = at + max(_SECONDS, _COST * (time.monotonic() - begun))
        return self._held_up

    def _ask(self, at: float) -> None:
        now = {thread: counts for thread in os.listdir(self._folder) if (counts := self._counts(thread)) is not None}
        ran, waited = (
            sum(counts[place] - self._known.get(thread, (0, 0))[place] for thread, counts in now.items()) / 1e9 for place in (0, 1)
        )
        self._held_up += lost(at - self._asked, ran, waited, self._cores)
        self._known, self._asked = now, at

    def _counts(self, thread: str) -> tuple[int, int] | None:
        """None of a thread that has ended, or where the kernel does not count."""
        with suppress(OSError):
            ran, waited, _ = (self._folder / thread / "schedstat").read_bytes().split()
            return int(ran), int(waited)
        return None


def lost(span: float, ran: float, waited: float, cores: int) -> float:
    """Of `span` seconds, in which threads ran and waited so many seconds all together, those that other processes took.

    The rest is how long the threads would have run if as many of them at once as wanted to had had cores, as far as there are `cores`:
    exact for one thread at work at a time, be it the first or one that the first waits for, and for several that share the work.
    """
    active = min(span, ran + waited)
    if active <= 0:
        return 0.0
    at_once = min((ran + waited) / active, cores)
    return max(0.0, active - ran / at_once)
