"""What this machine can do at best: read these very files one after the other, and copy memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .page_cache import prepare

_READ_BYTES = 16 << 30  # no more is read to know the rate, but so much: on a virtual machine the first 4 GiB came at 1.6 GB/s, 13 at 1.0
_CHUNK = 8 << 20
_COPY_BYTES = 64 << 20  # larger than any cache
_COPIES = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes a second, by as many threads as cores: `copy` in memory, `read` from storage in order (None where nothing is measured cold)."""

    copy: float
    read: float | None = None


def measure_limits(paths: Sequence[Path], *, cold: bool) -> Limits:
    """Measure now. With `cold` the files are dropped from the page cache and read."""
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        return Limits(_copy_rate(pool, threads), _read_rate(pool, threads, paths) if cold else None)


def _copy_rate(pool: ThreadPoolExecutor, threads: int) -> float:
    """Each thread copies a block of its own, from and to memory that is there already."""
    pairs = [(bytearray(_COPY_BYTES), bytearray(_COPY_BYTES)) for _ in range(threads)]
    addresses = [[ctypes.addressof(ctypes.c_char.from_buffer(block)) for block in pair] for pair in pairs]

    def copy(pair: Sequence[int]) -> None:
        ctypes.memmove(pair[0], pair[1], _COPY_BYTES)  # without Python's lock

    seconds = [_timed(lambda: list(pool.map(copy, addresses))) for _ in range(_COPIES + 1)]
    return threads * _COPY_BYTES / median(seconds[1:])  # the first one met pages that were not there


def _read_rate(pool: ThreadPoolExecutor, threads: int, paths: Sequence[Path]) -> float:
    prepare(paths, "cold")
    pieces = [(path, start) for path in paths for start in range(0, path.stat().st_size, _CHUNK)][: _READ_BYTES // _CHUNK]
    lanes = [pieces[lane::threads] for lane in range(threads)]
    done: list[int] = []
    seconds = _timed(lambda: done.extend(pool.map(_read, lanes)))
    return sum(done) / seconds


def _read(pieces: Sequence[tuple[Path, int]]) -> int:
    buffer, done = memoryview(bytearray(_CHUNK)), 0
    for path, start in pieces:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        done += os.preadv(descriptor, [buffer], start)
        os.close(descriptor)
    return done


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
