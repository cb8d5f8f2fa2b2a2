"""Writes that survive: whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import MlloadError

_SCRATCH = ".tmp"
_BLOCK = 4 << 20  # bytes; longer writes were slower, and shorter ones


def sync_files(folder: Path) -> None:
    """Bring every file in `folder`, and the folder itself, to the disk."""
    for path in (*folder.iterdir(), folder):
        sync(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    with _opened(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """A descriptor to write what is to lie at `path`: it does so from the end of the `with` on, whole and on the disk.

    Until then it is a file beside, under a lock that tells `sweep` that its writer is alive. Raises OSError; then `path` is as it was.
    """
    descriptor, scratch = _locked_scratch(path)
    try:
        yield descriptor
        os.fsync(descriptor)
        os.rename(scratch, path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def scratch_file(path: Path) -> Iterator[tuple[int, Path]]:
    """A file beside `path` to write and read until the end of the `with`: its descriptor, and where it lies.

    That of a writer who died goes with the next `sweep`. Raises OSError.
    """
    descriptor, scratch = _locked_scratch(path)
    try:
        yield descriptor, scratch
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Put a file there, in place of what was there before. Raises MlloadError, which names it; then nothing has changed."""
    try:
        with replacing(path) as descriptor:
            write_all(descriptor, content)
    except OSError as error:
        raise MlloadError(f"{path} can't be written: {error.strerror}") from None


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte, as large as it may be."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def write_past_cache(descriptor: int, contents: Iterable[memoryview]) -> None:
    """Write all of a new file straight to the disk, in blocks, where its file system can; else through the page cache, as `write_all`.

    Pages in the cache would cost more than the bytes in them: 0.4 to 2.9 s of processor a GiB was seen, 0.1 to 0.2 without.
    """
    block = mmap.mmap(-1, _BLOCK)  # whose beginning is a page's, as direct writes want it
    _set_direct(descriptor, True)
    filled = 0
    for content in contents:
        left = content
        while left:
            length = min(len(left), _BLOCK - filled)
            block[filled : filled + length] = left[:length]
            left, filled = left[length:], filled + length
            if filled == _BLOCK:
                _write_block(descriptor, block)
                filled = 0
    _set_direct(descriptor, False)  # which wants whole blocks
    write_all(descriptor, block[:filled])


def _write_block(descriptor: int, block: mmap.mmap) -> None:
    try:
        written = os.write(descriptor, block)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        written = 0  # the file system wants something else of direct writes
    if written < _BLOCK:
        _set_direct(descriptor, False)
        write_all(descriptor, memoryview(block)[written:])


def _set_direct(descriptor: int, value: bool) -> None:
    """Have writes go past the page cache, or not, on systems and file systems that know of it."""
    direct = getattr(os, "O_DIRECT", 0)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | direct if value else flags & ~direct)


@contextmanager
def replacing_with(path: Path) -> Iterator[Path]:
    """A path beside `path` where a file or a folder is to be made; at the end of the `with` it lies at `path`, on the disk."""
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(8)}{_SCRATCH}")
    try:
        yield scratch
        for made in (*(scratch.rglob("*") if scratch.is_dir() else ()), scratch):
            sync(made)
        os.rename(scratch, path)
        sync(path.parent)
    except BaseException:
        remove(scratch)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder, where that can be done."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_being_written(path: Path) -> bool:
    """Whether somebody is about to put a file there. Nobody is waited for, and on some network file systems nobody is noticed."""
    for scratch in path.parent.glob(f".{path.name}-*{_SCRATCH}"):
        with suppress(OSError), _opened(scratch) as descriptor:
            if not _lock(descriptor):
                return True
    return False


def sweep(folder: Path) -> None:
    """Remove what dead writers left in `folder`, where that can be told and done."""
    for scratch in folder.glob(f".*{_SCRATCH}"):
        with suppress(OSError), _opened(scratch) as descriptor:
            if _lock(descriptor):
                scratch.unlink(missing_ok=True)


def _locked_scratch(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, locked before a sweeper took it for a dead writer's."""
    while True:
        scratch = path.with_name(f".{path.name}-{secrets.token_hex(8)}{_SCRATCH}")
        descriptor = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            is_ours = _lock(descriptor)
        except OSError:  # a file system without locks, where nothing is swept
            is_ours = True
        if is_ours and os.fstat(descriptor).st_nlink:
            return descriptor, scratch
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock of a file until it is closed; False where somebody has it. Raises OSError where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
