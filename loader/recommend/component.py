"""One line of the memory table: what takes it, how much, where, and the arithmetic behind the number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ANONYMOUS, MAPPED = "anonymous", "mapped"  # of the host; every other place is a device: cuda:0, mps
Bytes = Mapping[str, int]  # by place


@dataclass(frozen=True, slots=True)
class Component:
    """`arithmetic` is the number as a person would work it out, `source` where its parts come from."""

    name: str
    nbytes: Bytes = field(default_factory=dict)
    arithmetic: str = ""
    source: str = ""

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {"name": self.name, "bytes": dict(self.nbytes), "arithmetic": self.arithmetic, "source": self.source}


def total(parts: Iterable[Bytes]) -> dict[str, int]:
    """The sum, place by place."""
    added: dict[str, int] = {}
    for part in parts:
        for place, nbytes in part.items():
            added[place] = added.get(place, 0) + nbytes
    return added


def highest(parts: Iterable[Bytes]) -> dict[str, int]:
    """The most, place by place."""
    most: dict[str, int] = {}
    for part in parts:
        for place, nbytes in part.items():
            most[place] = max(most.get(place, 0), nbytes)
    return most


def on_host(nbytes: Bytes) -> int:
    """Bytes in the host's memory, of both kinds."""
    return nbytes.get(ANONYMOUS, 0) + nbytes.get(MAPPED, 0)
