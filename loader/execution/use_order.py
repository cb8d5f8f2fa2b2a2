"""Which unit comes next: the order in which a model uses its units, learned while it does; until then the plan's."""

from __future__ import annotations

import threading


class UseOrder:
    """Units by their number in the plan. Each thread has a place of its own in the order, and all learn for each other.

    What followed a pair of units once is expected to follow it again, so that a unit used after each of several others is no riddle.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._follower: dict[tuple[int, int], int] = {}
        self._place = threading.local()

    @property
    def current(self) -> int:
        """The unit that this thread used last; -1 before the first."""
        return self._pair[1]

    def move_to(self, unit: int) -> None:
        """This thread uses `unit` now."""
        before, current = self._pair
        if unit != current:
            self._follower[before, current] = unit
            self._place.pair = (current, unit)

    def ahead(self) -> list[int]:
        """The units that this thread is expected to use next, each once, the nearest first, without the current one."""
        before, current = self._pair
        seen = {current: None}
        for _ in range(2 * self._count):
            before, current = current, self._follower.get((before, current), (current + 1) % self._count)
            seen[current] = None
            if len(seen) == self._count:
                break
        return list(seen)[1:]

    @property
    def _pair(self) -> tuple[int, int]:
        return getattr(self._place, "pair", (-1, -1))
