"""Anonymous memory whose pages are there before anybody writes to them: a copy of weights waits longer for those than for its bytes."""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref

from .tensors import TensorEntry

_AT_ONCE = 32 << 20  # bytes a call: long enough that the thread hardly ever waits for the interpreter's lock, which imports hold for long


class FreshMemory:
    """One block, in which a thread writes zeros page by page until `stop`. Then it is handed out piece by piece, from its beginning on.

    A piece goes back to the kernel when nobody holds it any more, all that was never handed out with `close`.
    """

    def __init__(self, nbytes: int, *, taken: int = 0) -> None:
        self._block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._lock = threading.Lock()
        self._taken = taken  # from the beginning on
        self._is_over = False
        self.filled = 0  # bytes that are there, from the beginning on
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def take(self, nbytes: int) -> memoryview | None:
        """The next piece of so many bytes, at a page's beginning; None where that much isn't left."""
        self.stop()
        with self._lock:
            start, pages = self._taken, -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            if start + pages > len(self._block):
                return None
            self._taken += pages
        return self._piece(start, nbytes)

    def copy_of(self, entry: TensorEntry) -> memoryview | None:
        """A copy of a tensor in float32 that is there already; None where there is none."""
        return None

    def check_unchanged(self) -> None:
        """Nothing has been read."""

    def stop(self) -> None:
        """Write no more: whoever needs the pages is as quick from now on."""
        self._is_over = True
        self._thread.join()

    def close(self) -> None:
        """Give back what was never handed out, and hand out no more."""
        self.stop()
        with self._lock:
            start, self._taken = self._taken, len(self._block)
        self._give_back(start, len(self._block) - start)

    def _piece(self, start: int, nbytes: int) -> memoryview:
        piece = memoryview(self._block)[start : start + nbytes]
        weakref.finalize(piece, self._give_back, start, nbytes).atexit = False
        return piece

    def _give_back(self, start: int, nbytes: int) -> None:
        """Those pages that nothing else lies in."""
        first, end = -(-start // mmap.PAGESIZE), (start + nbytes) // mmap.PAGESIZE
        if first < end:
            self._block.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (end - first) * mmap.PAGESIZE)

    def _fill(self) -> None:
        # Not MADV_POPULATE_WRITE, nor a read of /dev/zero: while they work the kernel lets nobody map or unmap anything, which imports do
        # all the time. Plain writes leave it free.
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._block))
        while not self._is_over and self.filled < len(self._block):
            length = min(_AT_ONCE, len(self._block) - self.filled)
            ctypes.memset(start + self.filled, 0, length)
            self.filled += length
