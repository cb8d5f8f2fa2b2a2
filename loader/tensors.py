"""One line of a checkpoint's tensor table, and what reading a file's header gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple


class Strided(NamedTuple):
    """How a view of a PyTorch storage lies whose elements don't follow one another: the steps along its axes, in elements."""

    stride: tuple[int, ...]


class Sliced(NamedTuple):
    """How a tensor lies that is cut over files: its parts, to be joined along `axis`."""

    axis: int
    parts: tuple[TensorEntry, ...]


class Reordered(NamedTuple):
    """How a tensor lies whose elements another one holds: that one seen with `shape`, and then its axes put in the order `axes`."""

    source: TensorEntry
    shape: tuple[int, ...]
    axes: tuple[int, ...]


class Constant(NamedTuple):
    """How a tensor lies that stands in no file: each of its elements is `value`."""

    value: int


class TensorEntry(NamedTuple):
    """Where one tensor lies and what it is; read from a header, without its bytes.

    `dtype` is a name of `dtypes.BITS`, or a GGUF block type such as `Q4_K`. `shape` is row-major. Where `arrangement` is None, its
    `nbytes` bytes are its elements in order, from byte `offset` of `file` on. A strided one begins there, and `nbytes` are of its
    elements, not of all that it spans; of a sliced one `file` and `offset` are the first part's, `nbytes` those of all parts. A
    constant has no bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int
    arrangement: Strided | Sliced | Reordered | Constant | None = None

    @property
    def pieces(self) -> tuple[TensorEntry, ...]:
        """What of it lies in one place each: itself, the parts that it is made of, or nothing."""
        if isinstance(self.arrangement, Sliced):
            return tuple(piece for part in self.arrangement.parts for piece in part.pieces)
        if isinstance(self.arrangement, Reordered):
            return self.arrangement.source.pieces
        return () if isinstance(self.arrangement, Constant) else (self,)

    @property
    def is_one_piece(self) -> bool:
        """Whether it can be a view of its file's bytes."""
        return self.arrangement is None or isinstance(self.arrangement, Strided)

    @property
    def place(self) -> tuple[str, int, int]:
        """The bytes it lies on."""
        return self.file, self.offset, self.nbytes

    def to_json(self) -> dict[str, object]:
        """The tensor as a line of the table that `--json` prints: with `stride`, or with `axis` and `parts`, where it has them."""
        line: dict[str, object] = self._asdict()
        del line["arrangement"]
        if isinstance(self.arrangement, Strided):
            return line | {"stride": self.arrangement.stride}
        if isinstance(self.arrangement, Sliced):
            return line | {"axis": self.arrangement.axis, "parts": [part.to_json() for part in self.arrangement.parts]}
        return line

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


def extents(entries: Iterable[TensorEntry]) -> list[TensorEntry]:
    """The byte ranges that `entries` fill without gaps, in the order of the files."""
    merged: list[TensorEntry] = []
    pieces = (piece for entry in entries for piece in entry.pieces)
    for entry in sorted(pieces, key=lambda piece: (piece.file, piece.offset)):
        start, end = entry.offset, entry.offset + entry.nbytes
        if merged and merged[-1].file == entry.file and start <= merged[-1].offset + merged[-1].nbytes:
            last = merged.pop()
            start, end = last.offset, max(end, last.offset + last.nbytes)
        merged.append(TensorEntry(f"bytes {start} to {end}", "U8", (end - start,), entry.file, start, end - start))
    return merged


def shared_tensors(tensors: Iterable[TensorEntry]) -> dict[str, str]:
    """Names of the tensors that lie in the bytes of another, and that one's name: ties and views inside a PyTorch file."""
    shared: dict[str, str] = {}
    last: TensorEntry | None = None  # that reaches furthest
    for tensor in sorted(tensors, key=lambda tensor: (tensor.file, tensor.offset, -tensor.nbytes)):
        if not tensor.nbytes or not tensor.is_one_piece:
            continue
        if last is None or last.file != tensor.file or tensor.offset + tensor.nbytes > last.offset + last.nbytes:
            last = tensor
        elif last.arrangement is None or last.place == tensor.place:
            shared[tensor.name] = last.name
    return shared
