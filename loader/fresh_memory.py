"""Anonymous memory whose pages are there before anybody writes to them: a copy of weights waits longer for those than for its bytes."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
import weakref

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14: asks for pages as writing to them would, and leaves what they hold
_AT_ONCE = 4 << 20  # imports map files meanwhile, and wait for each call to end


class FreshMemory:
    """One block, for which a thread asks the kernel page by page until `stop`. It is handed out piece by piece, from its beginning on.

    A piece goes back to the kernel when nobody holds it any more, all that was never handed out with `close`. Where the kernel can't do
    this, pages come as they always do: when they are first written to.
    """

    def __init__(self, nbytes: int) -> None:
        self._block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._lock = threading.Lock()
        self._taken = 0
        self._is_over = False
        self.filled = 0  # bytes that are there, from the beginning on
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def take(self, nbytes: int) -> memoryview | None:
        """The next piece of so many bytes, at a page's beginning; None where that much isn't left."""
        with self._lock:
            start, pages = self._taken, -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            if start + pages > len(self._block):
                return None
            self._taken += pages
        piece = memoryview(self._block)[start : start + nbytes]
        weakref.finalize(piece, self._block.madvise, mmap.MADV_DONTNEED, start, pages).atexit = False
        return piece

    def stop(self) -> None:
        """Ask for no further pages: whoever writes to them is as quick now."""
        self._is_over = True
        self._thread.join()

    def close(self) -> None:
        """Give back what was never handed out, and hand out no more."""
        self.stop()
        with self._lock:
            start, self._taken = self._taken, len(self._block)
        if start < len(self._block):
            self._block.madvise(mmap.MADV_DONTNEED, start)

    def _fill(self) -> None:
        if sys.platform != "linux":
            return
        madvise = ctypes.CDLL(None).madvise  # which, unlike Python's own, does not keep other threads waiting
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._block))
        while not self._is_over and self.filled < len(self._block):
            length = min(_AT_ONCE, len(self._block) - self.filled)
            if madvise(ctypes.c_void_p(address + self.filled), ctypes.c_size_t(length), _POPULATE_WRITE):
                return
            self.filled += length
