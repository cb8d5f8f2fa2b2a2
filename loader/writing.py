"""Writes that survive: whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import MlloadError

_SCRATCH = ".tmp"


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
