"""The peak of memory that a plan will reach while it is carried out, and what stays afterwards: anonymous, file-mapped and on a device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import LoadPlan


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of each kind. `anonymous` comes on top of what Python, torch and transformers take themselves (about 300 MB).

    `mapped` are pages of files: the kernel can drop and read them again, so that a model may have more of them than there is memory.
    """

    anonymous: int = 0
    mapped: int = 0
    device: int = 0

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.anonymous - other.anonymous, self.mapped - other.mapped, self.device - other.device)

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.anonymous + other.anonymous, self.mapped + other.mapped, self.device + other.device)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Memory while loading, at its highest, and once the model is loaded and its weights have been used."""

    peak: Memory
    loaded: Memory


def predict(plan: LoadPlan, *, on_device: bool, mapped: bool, workers: int) -> Prediction:
    """What loading `plan` whole takes. The transient of a step is what it reads in memory of its own before the result is there."""
    steps = list(plan.steps)
    kept = [step for step in steps if mapped and not on_device and step.is_view]
    made = sum(step.target_bytes for step in steps) - sum(step.target_bytes for step in kept)
    files = sum(step.target_bytes for step in kept)
    transient = _largest(workers, (step.transient_bytes for step in steps))
    loaded = Memory(device=made) if on_device else Memory(anonymous=made, mapped=files)
    reading = max((unit.source_bytes for unit in plan.units), default=0) if mapped else 0
    return Prediction(peak=loaded + Memory(anonymous=transient, mapped=reading), loaded=loaded)


def _largest(count: int, sizes: Iterable[int]) -> int:
    return sum(sorted(sizes, reverse=True)[:count])


def process_memory() -> Memory:
    """What this process holds now: resident anonymous and file-mapped bytes, and what torch has allocated on CUDA devices."""
    import torch

    status: dict[str, int] = {}
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            status = {
                key: int(value.split()[0]) * 1024 for key, _, value in (line.partition(":") for line in lines) if key.startswith("Rss")
            }
    except OSError:  # not Linux
        return Memory()
    device = sum(torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else 0
    return Memory(status.get("RssAnon", 0), status.get("RssFile", 0), device)
