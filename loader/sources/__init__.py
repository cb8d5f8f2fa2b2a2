"""Where a checkpoint's bytes come from: a local folder, the hub's cache, the hub itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from ..problems import Problem

# What the small files beside the weights may have: refused before they are read, wherever they lie.
MAX_CONFIG_BYTES = 10_000_000
MAX_INDEX_BYTES = 50_000_000  # of 180,000 tensors: 20 MB


def license_text(value: object) -> str | None:
    """A model card's licence, or its several licences, as one line; None where it names none."""
    names = [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str) and name]
    return ", ".join(names) or None


class ByteSource(Protocol):
    """Random access to the bytes of one file."""

    @property
    def name(self) -> str:
        """The file's name inside the checkpoint, for messages."""
        ...

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer only at the end of the file."""
        ...


class CheckpointSource(Protocol):
    """A folder of files, local or remote, in which a checkpoint lies."""

    @property
    def kind(self) -> str:
        """`folder`, `file`, `cache` or `hub`."""
        ...

    @property
    def location(self) -> str:
        """The folder's path, or the hub id."""
        ...

    @property
    def revision(self) -> str | None:
        """The commit that is read, where there is one."""
        ...

    @property
    def files(self) -> Mapping[str, int]:
        """Every file's size in bytes by its name (with `/` below subfolders)."""
        ...

    @property
    def license(self) -> str | None:
        """The licence that the model card names."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What to know of how the source was reached."""
        ...

    @property
    def parallel_reads(self) -> int:
        """How many files are worth reading at once."""
        ...

    def announce(self, names: Iterable[str]) -> None:
        """These files will be opened soon: begin what takes a while."""
        ...

    def read_file(self, name: str, *, limit: int) -> bytes | None:
        """A small file's bytes; None where there is no such file. Raises InvalidCheckpointError over `limit` bytes."""
        ...

    def open(self, name: str, *, ahead: int = 0) -> AbstractContextManager[ByteSource]:
        """The file for ranged reads; the first read fetches `ahead` bytes at least, where a round trip is what costs."""
        ...

    def close(self) -> None:
        """Give back what was kept open."""
        ...
