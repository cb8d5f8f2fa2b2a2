"""Units of a model over several devices, each filled in turn. A pure function of sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def spread(units: Iterable[tuple[str, int]], rooms: Mapping[str, int]) -> dict[str, str] | None:
    """The device of each unit: units in their order, so that a token crosses from one device to the next once.

    `units` are names and bytes, `rooms` the bytes that each device has for them. None where they don't fit.
    """
    placed: dict[str, str] = {}
    others = iter(rooms.items())
    device, room = next(others, ("", 0))
    for name, nbytes in units:
        while nbytes > room:
            following = next(others, None)
            if following is None:
                return None
            device, room = following
        placed[name] = device
        room -= nbytes
    return placed
