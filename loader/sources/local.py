"""Files on this machine: opened without ever blocking, and held against change while they are read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

from ..errors import InvalidCheckpointError, NotFoundError
from ..formats import format_of
from ..problems import Problem
from . import license_text

_MAX_LISTED_FILES = 100_000
_FRONT_MATTER_BYTES = 8192
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a fifo"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


Identity = tuple[int, int, int, int]  # size, times of the last change to the content and to anything in nanoseconds, inode


class LocalFile:
    """One regular file, open for ranged reads."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._descriptor = _open_regular(path, name)
        self._opened = os.fstat(self._descriptor)
        self.size = self._opened.st_size

    @property
    def identity(self) -> Identity:
        """What tells the file, as it was opened, from any other and from what it was before."""
        return identity_of(self._opened)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer only at the end of the file."""
        parts: list[bytes] = []
        while length > 0 and offset < self.size:
            part = os.pread(self._descriptor, min(length, self.size - offset), offset)
            if not part:
                raise InvalidCheckpointError("the file shrank while it was read", file=self.name)
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close the file; raises InvalidCheckpointError if it has changed since it was opened, unless another error says more."""
        closed = os.fstat(self._descriptor)
        os.close(self._descriptor)
        if error is None and identity_of(closed) != self.identity:
            raise InvalidCheckpointError("the file changed while it was read", file=self.name, hint="try again when it is whole")


def identity_of(status: os.stat_result) -> Identity:
    """What tells a file from any other and from what it was before."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _open_regular(path: Path, name: str) -> int:
    """A descriptor of `path`. Asks what it is before opening and again after, so that no fifo or device is ever waited for."""
    try:
        _check_regular(os.stat(path), name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise _explained(error, name) from None
    try:
        _check_regular(os.fstat(descriptor), name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(status: os.stat_result, name: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    what = next((word for is_kind, word in _KINDS if is_kind(status.st_mode)), "a special file")
    raise InvalidCheckpointError(f"is {what}, not a regular file", file=name)


def _explained(error: OSError, name: str) -> InvalidCheckpointError | NotFoundError:
    if error.errno == errno.ELOOP:
        return InvalidCheckpointError("is a loop of symbolic links", file=name)
    if error.errno == errno.ENOENT:
        return InvalidCheckpointError("is missing, or a symbolic link to nothing", file=name, hint="download it again")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotFoundError(f"{name}: no permission to read it")
    return InvalidCheckpointError(f"can't be read: {error.strerror}", file=name)


def read_small(path: Path, name: str, *, limit: int) -> bytes:
    """A whole file's bytes. Raises InvalidCheckpointError over `limit` bytes."""
    with LocalFile(path, name) as file:
        check_size(name, file.size, limit=limit)
        return file.read(0, file.size)


def check_size(name: str, size: int, *, limit: int) -> None:
    """Raises InvalidCheckpointError for a file of more than `limit` bytes."""
    if size > limit:
        raise InvalidCheckpointError(f"has {size:,} bytes, more than the {limit:,} such a file may have", file=name)


class LocalFolder:
    """A folder on this machine that holds a checkpoint."""

    parallel_reads = 1  # opening and parsing are what costs, and both hold the interpreter

    def __init__(
        self, path: Path, *, kind: str = "folder", revision: str | None = None, only: str | None = None, problems: tuple[Problem, ...] = ()
    ) -> None:
        self.path = path
        self.problems = problems
        self.kind = kind
        self.location = str(path if only is None else path / only)
        self.revision = revision
        self.files = _sizes(path) if only is None else {only: _size(path / only, only)}

    def announce(self, names: Iterable[str]) -> None:
        """Nothing to prepare: files on this machine are at hand."""

    def read_file(self, name: str, *, limit: int) -> bytes | None:
        """A small file's bytes; None where there is no such file."""
        if name not in self.files and not os.path.lexists(self.path / name):
            return None
        return read_small(self.path / name, name, limit=limit)

    def open(self, name: str, *, ahead: int = 0) -> LocalFile:
        """The file for ranged reads, checked on leaving its `with` to be the file that was opened."""
        del ahead  # a local read costs no round trip
        return LocalFile(self.path / name, name)

    def close(self) -> None:
        """Nothing is kept open."""

    @property
    def license(self) -> str | None:
        """The licence in the front matter of README.md."""
        if not self.files.get("README.md"):  # a fifo or a dangling link has no size: not worth an error
            return None
        with self.open("README.md") as card:
            lines = card.read(0, _FRONT_MATTER_BYTES).decode("utf-8", "replace").splitlines()
        front = takewhile(lambda line: line.strip() != "---", lines[1:]) if lines[:1] == ["---"] else ()
        return _license_in(list(front))


def _license_in(front: list[str]) -> str | None:
    """The value of the key `license`, which may be a list in brackets or one of a line each."""
    for number, line in enumerate(front):
        if line.startswith("license:"):
            value = line.removeprefix("license:").strip()
            items = value.strip("[]").split(",") if value else takewhile(lambda line: line.lstrip().startswith("- "), front[number + 1 :])
            return license_text([item.strip(" -\"'") for item in items])
    return None


def _sizes(path: Path) -> dict[str, int]:
    """Sizes of all files in the folder itself; what can't be asked for its size (a dangling link) counts as empty."""
    sizes: dict[str, int] = {}
    try:
        with os.scandir(path) as entries:
            for count, entry in enumerate(entries):
                if count >= _MAX_LISTED_FILES:
                    raise InvalidCheckpointError(f"holds more than {_MAX_LISTED_FILES:,} files", file=str(path))
                if not _is_folder(entry) or format_of(entry.name):  # a folder in place of weights is told when it is opened
                    sizes[entry.name] = _entry_size(entry)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from None
    return dict(sorted(sizes.items()))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entry_size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _size(path: Path, name: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise _explained(error, name) from None
