"""Fresh memory in few large blocks: page faults are what a copy costs most, and large pages have 512 times fewer of them."""

from __future__ import annotations

import mmap
import threading
from math import prod

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes; as torch's own allocator
_HUGE_PAGE = 2 << 20


class Arena:
    """One block of anonymous memory on the CPU, handed out piece by piece; it lives as long as any piece of it."""

    def __init__(self, nbytes: int, *, pieces: int = 1) -> None:
        self._free = 0
        nbytes += pieces * _ALIGNMENT
        self._lock = threading.Lock()
        self._block: Tensor | None = None
        if nbytes >= _HUGE_PAGE + pieces * _ALIGNMENT:
            block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            block.madvise(mmap.MADV_HUGEPAGE)
            self._block = torch.frombuffer(block, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor: from the block while there is room, else from torch."""
        nbytes = prod(shape) * dtype.itemsize
        with self._lock:
            start = self._free
            self._free = -(-(start + nbytes) // _ALIGNMENT) * _ALIGNMENT
        if self._block is None or nbytes == 0 or start + nbytes > self._block.numel():
            return torch.empty(shape, dtype=dtype)
        return self._block[start : start + nbytes].view(dtype).view(shape)
