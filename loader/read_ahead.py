"""Having the disk read what will soon be needed while something else is done: the kernel is asked to, nothing is copied."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

# The kernel does not read more at one request than the disk's read-ahead, which is seldom set to less than this.
_REQUEST = 128 << 10


def read_ahead(descriptor: int, offset: int, length: int) -> None:
    """Have bytes of an open file read into the page cache; returns before they are there. Nothing where the system takes no such advice."""
    if hasattr(os, "posix_fadvise"):
        for start in range(offset, offset + length, _REQUEST):
            os.posix_fadvise(descriptor, start, min(_REQUEST, offset + length - start), os.POSIX_FADV_WILLNEED)


def begin_reading(paths: Iterable[Path]) -> None:
    """Have whole files read one after the other, on a thread that never keeps the process from ending."""
    threading.Thread(target=_read_files, args=(tuple(paths),), daemon=True, name="mlload-read-ahead").start()


def _read_files(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # who reads the file in earnest will be told
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                read_ahead(descriptor, 0, os.fstat(descriptor).st_size)
            finally:
                os.close(descriptor)
