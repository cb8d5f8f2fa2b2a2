"""Many waits at once, on threads that never keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_parallel(function: Callable[[Item], Result], items: Sequence[Item], *, workers: int) -> list[Result]:
    """`function` of every item, in order. Raises the error of the first item that failed, and starts no further ones then.

    A ThreadPoolExecutor would be joined when the interpreter ends, so that Ctrl-C waits for the slowest server.
    """
    if workers <= 1 or len(items) <= 1:
        return [function(item) for item in items]
    waiting: SimpleQueue[int] = SimpleQueue()
    for place in range(len(items)):
        waiting.put(place)
    done: dict[int, Result] = {}
    failed: dict[int, BaseException] = {}

    def work() -> None:
        while not failed:
            try:
                place = waiting.get_nowait()
            except Empty:
                return
            try:
                done[place] = function(items[place])
            except BaseException as error:  # noqa: BLE001  (raised again below, in the caller's thread)
                failed[place] = error

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[min(failed)]
    return [done[place] for place in range(len(items))]
