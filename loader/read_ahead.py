"""Having the disk read what will soon be needed while something else is done: into the page cache, in long calls without Python."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .sources.parallel import Ahead

# One call reads so much: long enough that a thread hardly ever waits for the interpreter's lock, which imports hold for long.
_AT_ONCE = 64 << 20
_SCRATCH = 1 << 20  # stays in the processor's own cache
_FILES_AT_ONCE = 2


def read_ahead(descriptor: int, offset: int, length: int) -> None:
    """Read bytes of an open file into the page cache; on Linux, elsewhere nothing is done.

    They are sent nowhere: the kernel reads them as it reads any file from its beginning to its end, but copies nothing. The advice that
    it takes (WILLNEED) would end at the disk's read-ahead, however much is asked for.
    """
    if sys.platform != "linux":
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    end = offset + length
    with suppress(OSError):  # who reads the file in earnest will be told
        while offset < end and (sent := os.sendfile(nowhere, descriptor, offset, min(_AT_ONCE, end - offset))):
            offset += sent
    os.close(nowhere)


def begin_reading(paths: Iterable[Path]) -> None:
    """Read whole files into the page cache, in their order, on threads that never keep the process from ending.

    Unlike `read_ahead` this looks at every page, on a processor that has nothing else to do yet: a virtual machine pays for the first look
    at each page that its disk has filled, and whoever maps the file and computes with it would wait for that.
    """
    Ahead(_read_file, workers=_FILES_AT_ONCE).announce(paths)


def _read_file(path: Path) -> None:
    if not hasattr(os, "preadv"):
        return
    with suppress(OSError), mmap.mmap(-1, _SCRATCH) as scratch:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        into = [scratch] * (_AT_ONCE // _SCRATCH)  # over and over the same piece of memory
        offset = 0
        try:
            while count := os.preadv(descriptor, into, offset):
                offset += count
        finally:
            os.close(descriptor)
