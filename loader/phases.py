"""Seconds of each phase of loading. What several threads do at once is shared out, so that all phases together are the time that passed."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

# In this order; "cache" and "generate" follow where there is such a thing.
PHASES: tuple[str, ...] = ("headers", "import", "plan", "read", "convert", "quantize", "place")


@contextmanager
def phase(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the time spent inside to `seconds[name]`."""
    started = perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + perf_counter() - started


class PhaseClock:
    """Measures what threads are at. Each is in one phase at a time: one inside another stops the outer one's clock."""

    def __init__(self) -> None:
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """This thread is in phase `name` inside."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    @contextmanager
    def shared_out(self, seconds: dict[str, float]) -> Iterator[None]:
        """Adds the time that passes inside to the phases that threads are in meanwhile, in proportion to what each thread measured."""
        started = perf_counter()
        try:
            yield
        finally:
            passed, measured = perf_counter() - started, sum(self._spent.values())
            for name, spent in self._spent.items():
                seconds[name] = seconds.get(name, 0.0) + (passed * spent / measured if measured else 0.0)

    def _switch(self, name: str | None) -> str | None:
        """The phase that this thread was in, which ends now."""
        now, thread = perf_counter(), self._thread
        before: str | None = getattr(thread, "phase", None)
        if before is not None:
            with self._lock:
                self._spent[before] += now - thread.since
        thread.phase, thread.since = name, now
        return before
