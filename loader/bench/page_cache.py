"""The page cache, file by file: emptied or filled before a run, and looked at to be sure. The machine's global switch is left alone."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..errors import MlloadError

_CHUNK = 8 << 20
_TRIES = 3
_ALL_BUT_NOTHING = 0.999  # a page may go while the next file is read
_HINTS = {
    "cold": "another process may have it mapped, it may lie on a tmpfs, or it may not be yours",
    "warm": "it may be larger than the free memory",
}
_LOWEST_BIT = bytes(value & 1 for value in range(256))  # the one that mincore gives a meaning


def prepare(paths: Sequence[Path], state: str) -> None:
    """Make the page cache `cold` (no page of the files in it) or `warm` (all of them). Raises MlloadError where that can't be had."""
    for path in paths:
        for _ in range(_TRIES):
            if _is(state, residency(path)):
                break
            (evict if state == "cold" else read_through)(path)
        if not _is(state, share := residency(path)):
            raise MlloadError(f"{path} is not {state}: {share:.1%} of its pages are in the page cache", hint=_HINTS[state])


def _is(state: str, share: float) -> bool:
    return share == 0 if state == "cold" else share >= _ALL_BUT_NOTHING


def residency(path: Path) -> float:
    """The share of a file's pages that are in the page cache. All of a file's are, says the kernel, where it may not be written by us."""
    pages = resident_pages(path)
    return pages.count(1) / len(pages) if pages else 0.0


def resident_pages(path: Path) -> bytes:
    """For each page of a file 1 where it is in the page cache, else 0."""
    with ExitStack() as stack:
        descriptor = _open(path, stack)
        size = os.fstat(descriptor).st_size
        if size == 0:
            return b""
        pages = stack.enter_context(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY))
        resident = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(pages)
        failed = _libc().mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), resident)
        del first  # the map can't be closed while something points into it
    if failed:
        raise MlloadError(f"the kernel does not tell which pages of {path} are in memory: {os.strerror(ctypes.get_errno())}")
    return bytes(resident).translate(_LOWEST_BIT)


def evict(path: Path) -> None:
    """Ask the kernel to drop the file's pages; dirty ones are written first."""
    with ExitStack() as stack:
        descriptor = _open(path, stack)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path: Path) -> None:
    """Read the file from its beginning to its end."""
    buffer = memoryview(bytearray(_CHUNK))
    with ExitStack() as stack:
        descriptor = _open(path, stack)
        while os.readv(descriptor, [buffer]):
            pass


def _open(path: Path, stack: ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MlloadError(f"{path} can't be read: {error.strerror}") from None
    stack.callback(os.close, descriptor)
    return descriptor


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
