"""Fresh memory in few large blocks, which go back to the kernel as soon as nobody uses them: torch's own allocator may keep them."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from math import prod

import torch
from torch import Tensor

from ..fresh_memory import FreshMemory

_ALIGNMENT = 64  # bytes; as torch's own allocator
_LEAST = 2 << 20  # bytes that are worth a block
_GIVEN_BACK = 1 << 20  # bytes from which on freed memory goes back to the kernel
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def give_back_freed_memory() -> None:
    """Have what is freed go back to the kernel, in blocks of a mebibyte or more, from now on, in all of this process.

    glibc's own rule keeps blocks of up to 32 MiB for the next time, in holes between what stays: a forward whose tensors take 147 MiB at
    once was seen to hold 323. Other C libraries have no such switch, and are let be.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(threshold, _GIVEN_BACK)


class Arena:
    """One block of anonymous memory on the CPU, handed out piece by piece; it lives as long as any piece of it.

    It is a part of `fresh`, as long as that has room.
    """

    def __init__(self, nbytes: int, *, pieces: int = 1, fresh: FreshMemory | None = None) -> None:
        self._free = 0
        nbytes += pieces * _ALIGNMENT
        self._lock = threading.Lock()
        self._block: memoryview | mmap.mmap | None = None
        if nbytes >= _LEAST + pieces * _ALIGNMENT:
            # In pages of the ordinary size: huge ones have fewer faults, but virtual machines often have to ask their host for them first.
            self._block = (fresh and fresh.take(nbytes)) or mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor: from the block while there is room, else from torch."""
        nbytes = prod(shape) * dtype.itemsize
        with self._lock:
            start = self._free
            self._free = -(-(start + nbytes) // _ALIGNMENT) * _ALIGNMENT
        if self._block is None or nbytes == 0 or start + nbytes > len(self._block):
            return torch.empty(shape, dtype=dtype)
        # A storage of its own: what torch saves of a tensor is all of its storage, which must not be seen in two dtypes.
        return torch.frombuffer(self._block, dtype=dtype, count=prod(shape), offset=start).view(shape)


class Scratch(threading.local):
    """Memory for tensors that are forgotten before the thread needs the next one: a block for each thread, of the largest so far.

    An allocator would keep the holes that they leave between what stays.
    """

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor, in the place of the one before it."""
        nbytes = prod(shape) * dtype.itemsize
        if self._block.numel() < nbytes:
            self._block = Arena(nbytes).empty((nbytes,), torch.uint8)
        return self._block[:nbytes].view(dtype).view(shape)
