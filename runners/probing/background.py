"""Writing while the next batch computes: one thread, in the order in which it was asked, never far behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
_MOST_WAITING = 4  # actions; each holds the rows of a batch in memory


@dataclass(eq=False)
class Held(Generic[Value]):
    """Something that is closed when it is done with, or that an error ends."""

    value: Value
    _open: ExitStack
    _others: list[Held[Any]]

    def release(self) -> None:
        """Close it in order. Raises what closing raises."""
        self._others.remove(self)
        self._open.close()

    def abandon(self, error: BaseException) -> None:
        """Close it for an error."""
        self._open.__exit__(type(error), error, error.__traceback__)


class BackgroundWriter:
    """Runs actions one after the other. `seconds_waited`: how long the caller was held up by them."""

    def __init__(self) -> None:
        self.seconds_waited = 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlload-write")
        self._slots = threading.Semaphore(_MOST_WAITING)
        self._failure: BaseException | None = None
        self._held: list[Held[Any]] = []

    def hold(self, context: AbstractContextManager[Value]) -> Held[Value]:
        """Enter `context`; it is left when it is released, or when an error ends the writer."""
        stack = ExitStack()
        held = Held(stack.enter_context(context), stack, self._held)
        self._held.append(held)
        return held

    def do(self, action: Callable[[], None]) -> None:
        """Have `action` run after all before it. Raises what an earlier one raised; nothing runs after that."""
        start = time.perf_counter()
        self._slots.acquire()
        self.seconds_waited += time.perf_counter() - start
        if self._failure is not None:
            raise self._failure
        self._pool.submit(self._run, action)

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait for what is left, or drop it where an error came between. Raises what an action raised."""
        start = time.perf_counter()
        self._pool.shutdown(wait=True, cancel_futures=error is not None)
        self.seconds_waited += time.perf_counter() - start
        cause = error or self._failure
        if cause is not None:
            for held in self._held:
                with suppress(BaseException):
                    held.abandon(cause)
        if error is None and self._failure is not None:
            raise self._failure

    def _run(self, action: Callable[[], None]) -> None:
        try:
            if self._failure is None:
                action()
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that asked
            self._failure = error
        finally:
            self._slots.release()
