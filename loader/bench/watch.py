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


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: the machine's monotonic clock, resident bytes (shared memory counts as mapped), and seconds held up so far."""

    at: float
    anonymous: int
    mapped: int
    held_up: float


class Watch:
    """Looks at one process. Memory is one small file of /proc, kept open: a microsecond, and no lock of that process."""

    def __init__(self, pid: int) -> None:
        self.peak = Memory()
        self.samples: list[Sample] = []
        self._folder = f"/proc/{pid}"
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._statm = os.open(f"{self._folder}/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._threads = Threads(f"{self._folder}/task")

    def look(self, at: float, *, closely: bool = False) -> None:
        """Take a sample, `closely` one that is remembered with all that can be known; none of a process that has ended."""
        with suppress(ProcessLookupError, FileNotFoundError):
            self._look(at, closely=closely)

    def _look(self, at: float, *, closely: bool) -> None:
        _, resident, shared, *_ = os.pread(self._statm, 256, 0).split()
        mapped = int(shared) * self._page
        anonymous = int(resident) * self._page - mapped
        if anonymous > self.peak.anonymous or mapped > self.peak.mapped:
            self.peak = Memory(max(anonymous, self.peak.anonymous), max(mapped, self.peak.mapped))
        last = self.samples[-1] if self.samples else None
        if closely or last is None or at - last.at >= _GRAIN_SECONDS or abs(anonymous - last.anonymous) >= _GRAIN_BYTES:
            self.samples.append(Sample(at, anonymous, mapped, self._threads.held_up(at, anew=closely)))

    def sample_at(self, moment: float) -> Sample:
        """The sample that is nearest to `moment`."""
        place = bisect_left(self.samples, moment, key=lambda sample: sample.at)
        return min(self.samples[max(place - 1, 0) : place + 1], key=lambda sample: abs(sample.at - moment))

    def highest_resident(self) -> int:
        """The most that was resident at once, of whatever kind: the kernel's own high-water mark."""
        return _numbers(f"{self._folder}/status").get("VmHWM", 0) * 1024

    def bytes_from_storage(self) -> int:
        """Bytes that were read from storage on this process's behalf, pages of mapped files among them."""
        return _numbers(f"{self._folder}/io").get("read_bytes", 0)

    def processor_seconds(self) -> float:
        """Time on a core, of all threads, in user and kernel mode."""
        with open(f"{self._folder}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Close the file."""
        os.close(self._statm)


@contextmanager
def watching(pid: int) -> Iterator[Watch]:
    """A watch of the process, closed in the end."""
    watch = Watch(pid)
    try:
        yield watch
    finally:
        watch.close()


def _numbers(path: str) -> dict[str, int]:
    """Lines of `name: number`; empty where the kernel keeps them from us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            pairs = [line.partition(":")[::2] for line in lines]
    except OSError:
        return {}
    return {name: int(value.split()[0]) for name, value in pairs if value.split() and value.split()[0].isdigit()}
