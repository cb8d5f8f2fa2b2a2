"""One line of a checkpoint's tensor table, and what reading a file's header gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple


class TensorEntry(NamedTuple):
    """Where one tensor lies and what it is; read from a header, without its bytes.

    `dtype` is a name of `dtypes.BITS`, or a GGUF block type such as `Q4_K`. `shape` is row-major. `offset` counts bytes from
    the start of `file`. Strided views of a PyTorch storage have `nbytes` of their elements, not of the storage.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What one weights file says of itself: its tensors, its metadata, and how many bytes of it had to be read."""

    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, object] = field(default_factory=dict)
    header_bytes: int = 0


def stored_once(tensors: Iterable[TensorEntry]) -> Iterator[TensorEntry]:
    """The tensors less those that lie on the same bytes as one before (ties inside a PyTorch file)."""
    seen: set[tuple[str, int, int]] = set()
    for tensor in tensors:
        place = (tensor.file, tensor.offset, tensor.nbytes)
        if tensor.nbytes and place in seen:
            continue
        seen.add(place)
        yield tensor
