"""Fresh memory in few large blocks, which go back to the kernel as soon as nobody uses them: torch's own allocator may keep them."""

from __future__ import annotations

import mmap
import threading
from math import prod

import torch
from torch import Tensor

from ..fresh_memory import FreshMemory

_ALIGNMENT = 64  # bytes; as torch's own allocator
_LEAST = 2 << 20  # bytes that are worth a block


class Arena:
    """One block of anonymous memory on the CPU, handed out piece by piece; it lives as long as any piece of it.

    It is a part of `fresh`, as long as that has room.
    """

    def __init__(self, nbytes: int, *, pieces: int = 1, fresh: FreshMemory | None = None) -> None:
        self._free = 0
        nbytes += pieces * _ALIGNMENT
        self._lock = threading.Lock()
        self._block: Tensor | None = None
        if nbytes >= _LEAST + pieces * _ALIGNMENT:
            # In pages of the ordinary size: huge ones have fewer faults, but virtual machines often have to ask their host for them first.
            block = (fresh and fresh.take(nbytes)) or mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
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
