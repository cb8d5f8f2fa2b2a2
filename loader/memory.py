"""The peak of memory that a plan will reach while it is carried out, and what stays afterwards: anonymous, file-mapped and on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

PREPARED_FROM = 64 << 20  # bytes of copies from which on their memory is made during the imports; less is there in no time
STAGED_PIECE = 4 << 20  # bytes on their way to a CUDA device: larger pieces leave the processor's cache before they are fetched
_PIECES_A_WORKER = 5  # of these that are on their way at most: seen with eight workers, and a device that fetches 55 GB/s


class StepSizes(Protocol):
    """What is to be known of a step: bytes read, of these as pages that are given back, left and taken meanwhile, and whether it leaves
    the file's own pages.
    """

    @property
    def source_bytes(self) -> int: ...  # noqa: D102
    @property
    def passing_bytes(self) -> int: ...  # noqa: D102
    @property
    def target_bytes(self) -> int: ...  # noqa: D102
    @property
    def transient_bytes(self) -> int: ...  # noqa: D102
    @property
    def is_view(self) -> bool: ...  # noqa: D102


class UnitSizes(Protocol):
    """The same of a unit."""

    @property
    def steps(self) -> Sequence[StepSizes]: ...  # noqa: D102
    @property
    def target_bytes(self) -> int: ...  # noqa: D102


class PlanSizes(Protocol):
    """What is to be known of a plan: a `LoadPlan`, made with a model, or a sketch of one from headers alone."""

    @property
    def units(self) -> Sequence[UnitSizes]: ...  # noqa: D102
    @property
    def steps(self) -> Iterator[StepSizes]: ...  # noqa: D102


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
    """Memory while loading, at its highest, and once the model is loaded and its weights have been used.

    `at_once`: the most of the host's memory while loading, of both kinds together: their peaks need not be at the same moment.
    """

    peak: Memory
    loaded: Memory
    at_once: int = 0

    @property
    def kept_bytes(self) -> int:
        """What the weights take where they are computed with: on the device, or in the host's memory with pages that are used again."""
        return self.loaded.device or self.loaded.anonymous + self.loaded.mapped

    @property
    def peak_bytes(self) -> int:
        """The most that they take there while they are loaded. Pages that are read once and given back don't count."""
        return self.peak.device or self.peak.anonymous + self.loaded.mapped


def staged_bytes(workers: int) -> int:
    """Pinned memory of the host through which so many workers bring weights to a CUDA device."""
    return workers * _PIECES_A_WORKER * STAGED_PIECE


def predict(plan: PlanSizes, *, on_device: bool, mapped: bool, workers: int, staged: int = 0, can_be_prepared: bool = False) -> Prediction:
    """What loading `plan` whole takes. The transient of a step is what it reads in memory of its own before the result is there.

    What goes through `staged` bytes of pinned memory maps no pages. `can_be_prepared`: memory for much is there before the first is read.
    """
    pages, made = _pages_and_made(plan, on_device=on_device, mapped=mapped)
    loaded = Memory(device=made) if on_device else Memory(anonymous=made, mapped=pages)
    transient = _transient(plan, workers, on_device=on_device, mapped=mapped)
    reading = _reading(plan, mapped=mapped, staged=staged)
    prepared = made if can_be_prepared and made >= PREPARED_FROM else 0
    at_once = reading.mapped + staged if on_device else _at_once(plan, transient.anonymous, mapped=mapped, prepared=prepared)
    return Prediction(loaded + transient + reading, loaded, at_once)


def _at_once(plan: PlanSizes, transient: int, *, mapped: bool, prepared: int) -> int:
    """The most of the host's memory while units are made one after the other: those that are there, and the one that is read.

    `prepared`: what all of them take, where that is there from the beginning.
    """
    there, most = 0, 0
    for unit in plan.units:
        there += sum(step.target_bytes for step in unit.steps if not (mapped and step.is_view))
        reading = _read_and_given_back(unit) if mapped else 0
        most = max(most, max(there, prepared) + reading + min(transient, there))
    return most


def predict_streamed(plan: PlanSizes, *, on_device: bool, mapped: bool, resident: int | None, staged: int = 0) -> Prediction:
    """What a model takes whose units are read when they are used, with at most `resident` bytes of them at once: of both kinds together."""
    pages, made = _pages_and_made(plan, on_device=on_device, mapped=mapped)
    whole = pages + made if resident is None else min(pages + made, resident)
    pages, made = min(pages, whole), min(made, whole)
    loaded = Memory(device=made) if on_device else Memory(anonymous=made, mapped=pages)
    beside = _transient(plan, 1, on_device=on_device, mapped=mapped) + _reading(plan, mapped=mapped, staged=staged)
    return Prediction(loaded + beside, loaded, beside.anonymous + beside.mapped + (0 if on_device else whole))


def least_streamed(plan: PlanSizes, *, on_device: bool, mapped: bool) -> tuple[int, int]:
    """What streaming can't do without: bytes of the largest unit, and what reading it takes beside it."""
    largest = max((unit.target_bytes for unit in plan.units), default=0)
    transient = _transient(plan, 1, on_device=on_device, mapped=mapped)
    return largest, transient.device if on_device else transient.anonymous


def _reading(plan: PlanSizes, *, mapped: bool, staged: int) -> Memory:
    """What is only read of the host's memory at once."""
    if staged or not mapped:
        return Memory(anonymous=staged)
    return Memory(mapped=max((_read_and_given_back(unit) for unit in plan.units), default=0))


def _read_and_given_back(unit: UnitSizes) -> int:
    """Pages that are read while a unit is made, but for those that become the model's."""
    return sum(step.passing_bytes for step in unit.steps)


def _pages_and_made(plan: PlanSizes, *, on_device: bool, mapped: bool) -> tuple[int, int]:
    """Bytes of the model's weights that are pages of files, and of all others."""
    pages = sum(step.target_bytes for step in plan.steps if mapped and not on_device and step.is_view)
    return pages, sum(unit.target_bytes for unit in plan.units) - pages


def _transient(plan: PlanSizes, workers: int, *, on_device: bool, mapped: bool) -> Memory:
    """What `workers` steps at once take beside what they leave."""
    sizes = sorted((_transient_bytes(step, on_device=on_device, mapped=mapped) for step in plan.steps), reverse=True)
    most = sum(sizes[:workers])
    return Memory(device=most) if on_device else Memory(anonymous=most)


def _transient_bytes(step: StepSizes, *, on_device: bool, mapped: bool) -> int:
    if step.is_view:
        return 0
    if on_device:  # where the stored tensor is before it becomes what it is to be
        return step.transient_bytes or step.source_bytes
    return step.transient_bytes + (0 if mapped else step.source_bytes)


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
