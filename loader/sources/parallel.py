"""Many waits at once, on threads that never keep the process from ending."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


class _Slot(Generic[Result]):
    """One result to come."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: Result | None = None
        self.error: BaseException | None = None


class Ahead(Generic[Item, Result]):
    """`function` of items, computed on up to `workers` threads from the moment they are announced, once for each item.

    Daemon threads: a ThreadPoolExecutor would be joined when the interpreter ends, so that Ctrl-C would wait for the slowest server.
    """

    def __init__(self, function: Callable[[Item], Result], *, workers: int) -> None:
        self._function = function
        self._workers = workers
        self._running = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Item, _Slot[Result]]] = deque()
        self._slots: dict[Item, _Slot[Result]] = {}

    def announce(self, items: Iterable[Item]) -> None:
        """Begin with these items, as far as they are new."""
        with self._lock:
            for item in items:
                self._slot(item)
            missing = min(self._workers - self._running, len(self._waiting))
            self._running += missing
        for _ in range(missing):
            threading.Thread(target=self._work, daemon=True).start()

    def result(self, item: Item) -> Result:
        """The item's result; raises the error that its computation raised."""
        with self._lock:
            slot = self._slot(item)
        self.announce(())
        slot.done.wait()
        if slot.error is not None:
            raise slot.error
        return slot.value  # pyright: ignore[reportReturnType]  (None only where Result is)

    def forget(self, item: Item) -> None:
        """Compute the item anew when it is next asked for. Who waits for it already gets what is being computed."""
        with self._lock:
            self._slots.pop(item, None)

    def cancel(self) -> None:
        """Begin no further items."""
        with self._lock:
            self._waiting.clear()

    def _slot(self, item: Item) -> _Slot[Result]:
        """The item's place, put into the queue if it is new. Only with the lock held."""
        slot = self._slots.get(item)
        if slot is None:
            slot = self._slots[item] = _Slot()
            self._waiting.append((item, slot))
        return slot

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                item, slot = self._waiting.popleft()
            try:
                slot.value = self._function(item)
            except BaseException as error:  # noqa: BLE001  (raised again by `result`, in the caller's thread)
                _let_go(error)
                slot.error = error
            slot.done.set()


def _let_go(error: BaseException) -> None:
    """Free what the frames of an error hold, which may be much; their lines stay for --debug."""
    import traceback

    traceback.clear_frames(error.__traceback__)
    if error.__suppress_context__:
        error.__context__ = None


def map_parallel(function: Callable[[Item], Result], items: Sequence[Item], *, workers: int) -> list[Result]:
    """`function` of every item, in order. Raises the error of the first item that failed, and begins no further ones then."""
    if workers <= 1 or len(items) <= 1:
        return [function(item) for item in items]
    ahead = Ahead(function, workers=workers)
    ahead.announce(items)
    try:
        return [ahead.result(item) for item in items]
    finally:
        ahead.cancel()
