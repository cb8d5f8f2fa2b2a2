"""Weights in bfloat16 that become float32, copied while torch is imported: there is a core that nobody needs all that time."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .errors import InvalidCheckpointError
from .fresh_memory import FreshMemory
from .sources.local import Identity, identity_of
from .tensors import TensorEntry, extents

_AT_ONCE = 64 << 20  # bytes that are read between two needs for the interpreter's lock, which imports hold for long
_GROWTH = 2  # float32 takes so many times as much


def can_be_early(entry: TensorEntry) -> bool:
    """Whether a tensor's copy in float32 is that of its bytes in their order."""
    return entry.dtype == "BF16" and entry.arrangement is None and entry.nbytes > 0 and sys.byteorder == "little"


class EarlyCopies(FreshMemory):
    """Fresh memory whose first pages hold copies of `entries` in float32, each of which `can_be_early`; `nbytes` are all that is copied."""

    def __init__(self, folder: Path, entries: Sequence[TensorEntry], nbytes: int) -> None:
        import_module("numpy")  # by the thread that imports the rest, too: two would wait for each other at every file
        self._folder = folder
        self._extents = extents(entries)
        self._places = dict(_places(entries, self._extents))  # of the copies that nobody has taken
        self._identities: dict[str, Identity] = {}
        copied = -(-sum(extent.nbytes for extent in self._extents) * _GROWTH // mmap.PAGESIZE) * mmap.PAGESIZE
        super().__init__(max(nbytes, copied), taken=copied)

    def copy_of(self, entry: TensorEntry) -> memoryview | None:
        """The copy of a tensor, for the first who asks; None where there is none."""
        self.stop()
        start, length = self._places.get(entry.name, (0, 0))
        if not length or start + length > self.filled:
            return None
        del self._places[entry.name]
        return self._piece(start, length)

    def check_unchanged(self) -> None:
        """Raises InvalidCheckpointError if a file is not any more what it was when it was copied from."""
        for name, identity in self._identities.items():
            path = self._folder / name
            if not path.exists() or identity_of(path.stat()) != identity:
                raise InvalidCheckpointError("the file changed while it was loaded", file=name, hint="try again when it is whole")

    def close(self) -> None:
        """As of any fresh memory; so do the copies that nobody has taken."""
        super().close()
        for start, length in self._places.values():
            self._give_back(start, length)
        self._places.clear()

    def _fill(self) -> None:
        scratch = memoryview(mmap.mmap(-1, _AT_ONCE))
        with suppress(OSError):  # who loads will be told
            for extent in self._extents:
                with (self._folder / extent.file).open("rb", buffering=0) as file:
                    self._identities.setdefault(extent.file, identity_of(os.fstat(file.fileno())))
                    file.seek(extent.offset)
                    for start in range(0, extent.nbytes, _AT_ONCE):
                        content = scratch[: min(_AT_ONCE, extent.nbytes - start)]
                        if self._is_over or file.readinto(content) != len(content):
                            return
                        self._copy(content)
        super()._fill()

    def _copy(self, content: memoryview) -> None:
        """The upper halves of what follows on what is filled; the lower ones are zero."""
        import numpy as np

        target = np.frombuffer(self._block, np.uint32, len(content) // 2, self.filled)
        np.left_shift(np.frombuffer(content, np.uint16), 16, out=target, dtype=np.uint32, casting="unsafe")
        self.filled += _GROWTH * len(content)


def _places(entries: Sequence[TensorEntry], ranges: Sequence[TensorEntry]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Where the copy of each tensor begins and how long it is, if those of all `ranges` follow one another."""
    before, coming = 0, iter(ranges)
    extent = next(coming, None)
    for entry in sorted(entries, key=lambda entry: (entry.file, entry.offset)):
        while extent is not None and (entry.file != extent.file or entry.offset >= extent.offset + extent.nbytes):
            before += extent.nbytes
            extent = next(coming, None)
        assert extent is not None  # each lies in one of them
        yield entry.name, ((before + entry.offset - extent.offset) * _GROWTH, entry.nbytes * _GROWTH)
