"""Having the disk read what will soon be needed while something else is done: into the page cache, in long calls without Python."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from .sources.parallel import Ahead

# One call reads so much: long enough that a thread hardly ever waits for the interpreter's lock, which imports hold for long.
_AT_ONCE = 64 << 20
_SCRATCH = 1 << 20  # stays in the processor's own cache
_LOOKING_AT_ONCE = 2
_CACHESTAT = 451  # the system call's number, on every architecture; from Linux 6.5 on


def read_ahead(descriptor: int, offset: int, length: int) -> None:
    """Read bytes of an open file into the page cache; on Linux, elsewhere nothing is done.

    They are sent nowhere: the kernel reads them as it reads any file from its beginning to its end, but copies nothing. The advice that
    it takes (WILLNEED) would end at the disk's read-ahead, however much is asked for. Where all is in memory, nothing is done: to send it
    takes as long as to map it.
    """
    if sys.platform != "linux" or is_in_memory(descriptor, offset, length):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    end = offset + length
    with suppress(OSError):  # who reads the file in earnest will be told
        while offset < end and (sent := os.sendfile(nowhere, descriptor, offset, min(_AT_ONCE, end - offset))):
            offset += sent
    os.close(nowhere)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    """Pages of a range of a file, of which the first number is of those that are in memory."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "written", "evicted", "recently_evicted"))


def is_in_memory(descriptor: int, offset: int, length: int) -> bool:
    """Whether the kernel says that every page of a range of an open file is in its page cache; False where it can't tell."""
    asked, found = _Range(offset, length), _CacheStat()
    if _libc().syscall(_CACHESTAT, descriptor, ctypes.byref(asked), ctypes.byref(found), 0) != 0:
        return False
    return found.cached >= (offset + length - 1) // mmap.PAGESIZE - offset // mmap.PAGESIZE + 1


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def begin_reading(paths: Iterable[Path], *, is_idle: bool) -> None:
    """Read whole files into the page cache, in their order, on threads that never keep the process from ending.

    Where the processor `is_idle` meanwhile they look at every page: a virtual machine pays for the first look at each one that its disk
    filled, and whoever maps the file and computes with it would wait for that. Where somebody computes with what comes, he is left the
    processor, and gets all in its order.
    """
    pieces = [(path, start) for path in paths if path.is_file() for start in range(0, path.stat().st_size, _AT_ONCE)]
    if is_idle:
        Ahead(_look_at, workers=_LOOKING_AT_ONCE).announce(pieces)
    else:
        Ahead(_read, workers=1).announce(pieces)


def _read(piece: tuple[Path, int]) -> None:
    path, offset = piece
    with suppress(OSError), path.open("rb", buffering=0) as file:
        read_ahead(file.fileno(), offset, min(_AT_ONCE, os.fstat(file.fileno()).st_size - offset))


def _look_at(piece: tuple[Path, int]) -> None:
    if not hasattr(os, "preadv"):
        return
    path, offset = piece
    with suppress(OSError), path.open("rb", buffering=0) as file, mmap.mmap(-1, _SCRATCH) as scratch:
        end = min(offset + _AT_ONCE, os.fstat(file.fileno()).st_size)
        if is_in_memory(file.fileno(), offset, end - offset):  # it was looked at, as a rule
            return
        # Over and over into the same piece of memory.
        while offset < end and (count := os.preadv(file.fileno(), [scratch] * ((end - offset) // _SCRATCH or 1), offset)):
            offset += count
