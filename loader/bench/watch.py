"""A process as the kernel sees it while it runs: memory, and time lost to other processes. Asked from outside, at little cost."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ..memory import Memory
from .threads import Threads

_GRAIN_SECONDS = 0.01  # of what is remembered; the peaks are those of every look
_GRAIN_BYTES = 1 << 20
_HIGHEST = b"VmHWM:"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: the machine's monotonic clock, resident bytes (shared memory counts as mapped), and seconds held up so far."""

    at: float
    anonymous: int
    mapped: int
    held_up: float


class Watch:
    """Looks at one process. Memory is one small file of /proc, kept open: some microseconds, and no lock of that process.

    The kernel keeps the highest sum of all kinds (`highest_resident`). Where that has risen between two looks above what either of them
    saw, the rise was anonymous memory that came and went, as far as it is not what one of them saw as mapped: so a peak that is one of
    the whole process is not missed, as short as it may be.
    """

    def __init__(self, pid: int) -> None:
        self.peak = Memory()
        self.highest_resident = 0
        self.samples: list[Sample] = []
        self._mapped_before = 0
        self._folder = f"/proc/{pid}"
        self._status = os.open(f"{self._folder}/status", os.O_RDONLY | os.O_CLOEXEC)
        self._threads = Threads(f"{self._folder}/task")

    def look(self, at: float, *, closely: bool = False) -> None:
        """Take a sample, `closely` one that is remembered with all that can be known; none of a process that has ended."""
        with suppress(ProcessLookupError, FileNotFoundError):
            status = os.pread(self._status, 1 << 14, 0)
            if _HIGHEST in status:  # not of one that only waits to be reaped
                self._take(status, at, closely=closely)

    def _take(self, status: bytes, at: float, *, closely: bool) -> None:
        highest, anonymous = _bytes(status, _HIGHEST), _bytes(status, b"RssAnon:")
        mapped = _bytes(status, b"RssFile:") + _bytes(status, b"RssShmem:")
        between = highest - max(mapped, self._mapped_before) if highest > self.highest_resident else 0
        if (most := max(anonymous, between)) > self.peak.anonymous or mapped > self.peak.mapped:
            self.peak = Memory(max(most, self.peak.anonymous), max(mapped, self.peak.mapped))
        self.highest_resident, self._mapped_before = highest, mapped
        last = self.samples[-1] if self.samples else None
        if closely or last is None or at - last.at >= _GRAIN_SECONDS or abs(anonymous - last.anonymous) >= _GRAIN_BYTES:
            self.samples.append(Sample(at, anonymous, mapped, self._threads.held_up(at, anew=closely)))

    def sample_at(self, moment: float) -> Sample:
        """The sample that is nearest to `moment`."""
        place = bisect_left(self.samples, moment, key=lambda sample: sample.at)
        return min(self.samples[max(place - 1, 0) : place + 1], key=lambda sample: abs(sample.at - moment))

    def bytes_from_storage(self) -> int:
        """Bytes that were read from storage on this process's behalf, pages of mapped files among them."""
        try:
            with open(f"{self._folder}/io", "rb") as file:
                return _number(file.read(), b"\nread_bytes:")
        except OSError:  # the kernel keeps it from us, or the process has ended
            return 0

    def processor_seconds(self) -> float:
        """Time on a core, of all threads, in user and kernel mode."""
        with open(f"{self._folder}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Close the file."""
        os.close(self._status)


@contextmanager
def watching(pid: int) -> Iterator[Watch]:
    """A watch of the process, closed in the end."""
    watch = Watch(pid)
    try:
        yield watch
    finally:
        watch.close()


def _bytes(status: bytes, name: bytes) -> int:
    return _number(status, name) * 1024


def _number(lines: bytes, name: bytes) -> int:
    """The number after `name`."""
    start = lines.index(name) + len(name)
    return int(lines[start : start + 24].split(None, 1)[0])
