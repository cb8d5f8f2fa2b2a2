"""The bytes of a checkpoint on this machine as tensors: pages of the files themselves where that is possible."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ..dtypes import TORCH_NAMES
from ..errors import InvalidCheckpointError, UsageError
from ..memory import STAGED_PIECE
from ..read_ahead import read_ahead
from ..tensors import Constant, Reordered, Sliced, Strided, TensorEntry, extents
from .allocation import Arena

TORCH_DTYPES: dict[str, torch.dtype] = {ours: getattr(torch, theirs) for theirs, ours in TORCH_NAMES.items() if hasattr(torch, theirs)}
_ALIGNMENT = 8  # of the widest dtype
_PIECE, _PIECES_AT_ONCE = 64 << 20, 2  # of what is read ahead


class WeightFiles:
    """The weight files of one folder, opened when first read from.

    With `mapped`, a tensor's storage is the file's own pages, mapped privately: nothing is copied, the kernel may drop the pages and
    read them again, and writing to the tensor never reaches the file. Without, its bytes are read into memory of their own.
    """

    def __init__(self, folder: Path, *, mapped: bool = True) -> None:
        self.are_mapped = mapped
        self._folder = folder
        self._files: dict[str, _File] = {}
        self._opening = threading.Lock()

    def read(self, entry: TensorEntry) -> Tensor:
        """The tensor of `entry`, in its stored dtype. Raises InvalidCheckpointError where the file is no longer as its header was."""
        arrangement = entry.arrangement
        if isinstance(arrangement, Sliced):
            return torch.cat([self.read(part) for part in arrangement.parts], dim=arrangement.axis)
        if isinstance(arrangement, Reordered):
            return self.read(arrangement.source).reshape(arrangement.shape).permute(arrangement.axes).reshape(entry.shape)
        dtype = torch_dtype(entry)
        if entry.numel == 0:
            return torch.empty(entry.shape, dtype=dtype)
        if isinstance(arrangement, Constant):
            return torch.full(entry.shape, arrangement.value, dtype=dtype)
        if isinstance(arrangement, Strided):
            return self._bytes(entry, _span(entry) * dtype.itemsize).view(dtype).as_strided(entry.shape, arrangement.stride)
        return self._bytes(entry, entry.nbytes).view(dtype).view(entry.shape)

    def is_mapped(self, entry: TensorEntry) -> bool:
        """Whether reading `entry` gives the file's own pages, no copy."""
        return self.are_mapped and entry.arrangement is None and entry.offset % _ALIGNMENT == 0

    def read_into(self, entry: TensorEntry, target: Tensor) -> None:
        """Fill `target`, which has the shape of `entry`: straight from the file where that is all there is to do."""
        alike = entry.arrangement is None and TORCH_DTYPES.get(entry.dtype) == target.dtype
        if alike and target.device.type == "cpu" and target.is_contiguous() and target.numel():
            self._file(entry.file).fill(_as_buffer(target), entry.offset)
        elif alike and target.device.type == "cuda" and target.is_contiguous():
            self._stage(entry, target)
        else:
            target.copy_(self.read(entry))
            self.release(entry)

    def read_to(self, entry: TensorEntry, device: torch.device) -> Tensor:
        """As `read` on the CPU; on another device in memory of its own."""
        if device.type == "cpu":
            return self.read(entry)
        target = torch.empty(entry.shape, dtype=torch_dtype(entry), device=device)
        self.read_into(entry, target)
        return target

    def read_ahead(self, entries: Iterable[TensorEntry]) -> None:
        """Read the bytes of `entries` into the page cache, in the order of the files: two pieces at once, which disks are quicker at."""
        pieces = [piece for extent in extents(entries) for piece in _pieces(extent)]

        def read(piece: TensorEntry) -> None:
            read_ahead(self._file(piece.file).descriptor, piece.offset, piece.nbytes)

        with ThreadPoolExecutor(min(len(pieces), _PIECES_AT_ONCE) or 1) as disk:
            list(disk.map(read, pieces))

    def release(self, entry: TensorEntry, *, for_good: bool = False) -> None:
        """Give the pages of `entry` back to the kernel, which reads them again should they be touched.

        It keeps them in its page cache as long as it likes, unless they are given back `for_good`.
        """
        for piece in entry.pieces:
            if self.are_mapped and piece.nbytes and piece.arrangement is None:
                self._file(piece.file).release(piece.offset, piece.nbytes, for_good=for_good)

    def check_unchanged(self) -> None:
        """Raises InvalidCheckpointError if a file has changed since it was opened: what was read may be of two versions."""
        for name, file in list(self._files.items()):
            if file.has_changed():
                raise InvalidCheckpointError("the file changed while it was loaded", file=name, hint="try again when it is whole")

    def close(self) -> None:
        """Close the files; tensors that are mapped keep their pages."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _stage(self, entry: TensorEntry, target: Tensor) -> None:
        """Fill `target` on a CUDA device piece by piece through pinned memory, from which the device fetches while the next piece is read.

        From any other memory the driver copies to buffers of its own first, one thread at a time: 6 GB/s to an H200, where eight threads of
        these get 16. torch's allocator keeps a piece until the device has it, and gives it out again then.
        """
        whole = target.view(-1).view(torch.uint8)
        for start in range(0, entry.nbytes, STAGED_PIECE):
            length = min(STAGED_PIECE, entry.nbytes - start)
            piece = torch.empty(STAGED_PIECE, dtype=torch.uint8, pin_memory=True)[:length]
            self._file(entry.file).fill(_as_buffer(piece), entry.offset + start)
            whole[start : start + length].copy_(piece, non_blocking=True)

    def _bytes(self, entry: TensorEntry, length: int) -> Tensor:
        file = self._file(entry.file)
        if entry.offset + length > file.size:
            raise InvalidCheckpointError("the file has become shorter", file=entry.file, tensor=entry.name, hint="download it again")
        return file.mapped(entry.offset, length) if self.are_mapped else file.copied(entry.offset, length)

    def _file(self, name: str) -> _File:
        with self._opening:
            if name not in self._files:
                self._files[name] = _File(self._folder / name, name)
            return self._files[name]


def torch_dtype(entry: TensorEntry) -> torch.dtype:
    """What torch calls the dtype of `entry`. Raises UsageError where it has none."""
    dtype = TORCH_DTYPES.get(entry.dtype)
    if dtype is None:
        raise UsageError(f"{entry.name}: torch has no dtype {entry.dtype}", hint="`mlload inspect` shows what the checkpoint holds")
    return dtype


def _pieces(extent: TensorEntry) -> Iterator[TensorEntry]:
    """A range of bytes in pieces."""
    for start in range(0, extent.nbytes, _PIECE):
        length = min(_PIECE, extent.nbytes - start)
        yield extent._replace(offset=extent.offset + start, nbytes=length, shape=(length,))


def _as_buffer(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU that lies in one piece."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]  # an array is a buffer


def _span(entry: TensorEntry) -> int:
    """How many elements of the storage a strided view reaches over."""
    stride = entry.arrangement.stride if isinstance(entry.arrangement, Strided) else ()
    return 1 + sum((size - 1) * step for size, step in zip(entry.shape, stride, strict=True))


class _File:
    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._opened = os.fstat(self.descriptor)
        self.size = self._opened.st_size
        self._map: mmap.mmap | None = None
        self._mapping = threading.Lock()

    def mapped(self, offset: int, length: int) -> Tensor:
        """The file's pages; copied only where they are not aligned for every dtype."""
        if offset % _ALIGNMENT:
            return self.copied(offset, length)
        with self._mapping:
            if self._map is None:
                self._map = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(self._map, dtype=torch.uint8, count=length, offset=offset)  # a storage of its own

    def copied(self, offset: int, length: int) -> Tensor:
        content = Arena(length).empty((length,), torch.uint8)  # unlike torch's own memory it goes back to the kernel at once
        self.fill(_as_buffer(content), offset)
        return content

    def fill(self, content: memoryview, offset: int) -> None:
        while content:
            count = os.preadv(self.descriptor, [content], offset)
            if count == 0:
                raise InvalidCheckpointError("the file shrank while it was read", file=self._name)
            content, offset = content[count:], offset + count

    def release(self, offset: int, length: int, *, for_good: bool) -> None:
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if self._map is not None and whole > 0:
            self._map.madvise(mmap.MADV_DONTNEED, start, whole)
            if for_good and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self.descriptor, start, whole, os.POSIX_FADV_DONTNEED)

    def has_changed(self) -> bool:
        now = os.fstat(self.descriptor)
        return (now.st_size, now.st_mtime_ns, now.st_ino) != (self._opened.st_size, self._opened.st_mtime_ns, self._opened.st_ino)

    def close(self) -> None:
        os.close(self.descriptor)
