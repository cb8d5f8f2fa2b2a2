"""Units in memory under a budget: brought in by one thread, in the order in which the model is expected to use them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..machine import free_bytes
from ..plan import Step, Unit
from ..tensors import TensorEntry, extents
from .allocation import Arena
from .full import UnitReader
from .kept_weights import KeptWeights
from .skeleton import Skeleton
from .use_order import UseOrder
from .weight_files import WeightFiles

_UNITS_AHEAD = 2  # read before they are used, as far as the budget goes: one would let the disk rest whenever it is done first

Content = Future[Mapping[str, Tensor]]


@dataclass
class StreamCounters:
    """What streaming did so far. A visit is a change to another unit than the one used before it.

    `bytes_read` counts the checkpoint's bytes that were brought in, but not the rows of embedding tables that are looked up singly.
    """

    loads: int = 0
    bytes_read: int = 0
    visits: int = 0
    hits: int = 0
    prefetch_hits: int = 0
    resident_bytes: int = 0
    peak_resident_bytes: int = 0
    seconds_waited: float = 0.0


@dataclass(eq=False)
class StreamedUnit:
    """One unit: tensors that are pages of the files, and steps that make the others anew each time.

    `dense` are the ranges of the mapped tensors that are read whole, `pages` all that the unit may touch; `kept` those of its quantized
    weights in the cache's files.
    """

    number: int
    name: str
    nbytes: int
    mapped: Mapping[str, Tensor]
    made: Unit
    parameters: frozenset[str]
    dense: Sequence[TensorEntry]
    pages: Sequence[TensorEntry]
    kept: Sequence[TensorEntry] = ()
    content: Content | None = None
    is_prefetched: bool = field(default=False, repr=False)


class Residency:
    """Keeps at most `budget` bytes of `units` in memory; None keeps all that were used. `kept` has the quantized weights.

    One thread reads and drops, in the order in which it was asked to: room is made before it is filled.
    """

    def __init__(
        self,
        units: Sequence[StreamedUnit],
        skeleton: Skeleton,
        files: WeightFiles,
        *,
        device: torch.device,
        budget: int | None,
        kept: KeptWeights | None = None,
    ) -> None:
        self.counters = StreamCounters()
        self._units = units
        self._skeleton = skeleton
        self._files = files
        self._kept = kept
        self._device = device
        self._budget = budget
        # All of them in turn, and less memory than they take: the kernel would drop what was read ahead rather than what was used before.
        self._drops_pages = budget is not None and free_bytes() < sum(map(_read_bytes, units))
        self._order = UseOrder(len(units))
        self._expected: Sequence[int] | None = None
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mlload-stream")

    def expect(self, names: Container[str] | None) -> None:
        """From now on only units of these names are read before they are used, each once, in the plan's order; None for all, in turn."""
        self._expected = None if names is None else [unit.number for unit in self._units if unit.name in names]

    def use(self, unit: StreamedUnit) -> Mapping[str, Tensor]:
        """The unit's tensors; brings them in where they are not there, and then those expected next."""
        if self._order.current == unit.number and (values := self.resident(unit)) is not None:
            return values
        return self._wait(unit, lambda: self._visit(unit))

    def hold(self, unit: StreamedUnit) -> Mapping[str, Tensor]:
        """The unit's tensors as `use` gives them, but nothing is learned from it."""
        return self._wait(unit, lambda: unit.content or self._bring_in(unit, spared={unit}))

    def resident(self, unit: StreamedUnit) -> Mapping[str, Tensor] | None:
        """The unit's tensors if they are there already."""
        content = unit.content
        return content.result() if content is not None and content.done() and not content.cancelled() else None

    def make_alone(self, unit: StreamedUnit, step: Step) -> Mapping[str, Tensor]:
        """The tensors of one step, kept nowhere."""
        return make(Unit(unit.name, (step,)), unit.parameters, self._skeleton, self._files, self._device)

    def _wait(self, unit: StreamedUnit, ask: Callable[[], Content]) -> Mapping[str, Tensor]:
        while True:
            with self._lock:
                content = ask()
            start = time.perf_counter()
            try:
                return content.result()
            except CancelledError:  # another thread needed the room before the reading had begun
                continue
            except BaseException:
                self._forget(unit, content)
                raise
            finally:
                self.counters.seconds_waited += time.perf_counter() - start

    def _visit(self, unit: StreamedUnit) -> Content:
        counters = self.counters
        counters.visits += 1
        self._order.move_to(unit.number)
        content = unit.content
        if content is None:
            content = self._bring_in(unit, spared={unit})
        else:
            counters.hits += 1
            counters.prefetch_hits += unit.is_prefetched
        unit.is_prefetched = False
        self._prefetch(unit)
        return content

    def _prefetch(self, current: StreamedUnit) -> None:
        spared = {current}
        for number in self._ahead(current)[:_UNITS_AHEAD]:
            unit = self._units[number]
            spared.add(unit)
            if unit.content is None:
                if not self._has_room(spared):
                    return
                self._bring_in(unit, spared=spared)
                unit.is_prefetched = True

    def _ahead(self, current: StreamedUnit) -> list[int]:
        if self._expected is None:
            return self._order.ahead()
        return [number for number in self._expected if number > current.number]

    def _has_room(self, wanted: set[StreamedUnit]) -> bool:
        return self._budget is None or sum(unit.nbytes for unit in wanted) <= self._budget

    def _bring_in(self, unit: StreamedUnit, *, spared: set[StreamedUnit]) -> Content:
        counters = self.counters
        if self._budget is not None:
            self._drop_until(self._budget - unit.nbytes, spared)
        counters.resident_bytes += unit.nbytes
        counters.peak_resident_bytes = max(counters.peak_resident_bytes, counters.resident_bytes)
        unit.content = self._worker.submit(self._load, unit)
        return unit.content

    def _drop_until(self, nbytes: int, spared: set[StreamedUnit]) -> None:
        """Drop units until no more than `nbytes` are left: first those that are not expected, then those expected last."""
        if self.counters.resident_bytes <= nbytes:
            return
        distance = {number: place for place, number in enumerate(self._order.ahead())}
        there = [unit for unit in self._units if unit.content is not None and unit not in spared]
        for unit in sorted(there, key=lambda unit: -distance.get(unit.number, len(self._units))):
            if self.counters.resident_bytes <= nbytes:
                return
            self._drop(unit)

    def _drop(self, unit: StreamedUnit) -> None:
        content, unit.content, unit.is_prefetched = unit.content, None, False
        self.counters.resident_bytes -= unit.nbytes
        if content is not None and not content.cancel():
            self._worker.submit(self._release, unit, content)

    def _forget(self, unit: StreamedUnit, content: Content) -> None:
        """Leave a unit that could not be read as if nobody had asked for it."""
        with self._lock:
            if unit.content is content:
                self._drop(unit)

    def _load(self, unit: StreamedUnit) -> Mapping[str, Tensor]:
        self._files.check_unchanged()
        sources = extents(entry for step in unit.made.steps for entry, _ in step.sources)
        extents_read = (*unit.dense, *sources)
        self._files.read_ahead(extents_read)  # the threads that compute map the pages: one more would be in their way
        if self._kept is not None:
            self._kept.files.check_unchanged()
            self._kept.files.read_ahead(unit.kept)
        self.counters.bytes_read += sum(extent.nbytes for extent in (*extents_read, *unit.kept))
        self.counters.loads += 1
        made = make(unit.made, unit.parameters, self._skeleton, self._files, self._device)
        for extent in sources:
            self._files.release(extent, for_good=self._drops_pages)
        kept = {} if self._kept is None else self._kept.bring(unit.name)
        return {**unit.mapped, **made, **kept}

    def _release(self, unit: StreamedUnit, content: Content) -> None:
        """Give back what the unit held: pages at once, made tensors with the last reference to `content`, which is the caller's."""
        del content
        for extent in unit.pages:
            self._files.release(extent, for_good=self._drops_pages)
        if self._kept is not None:
            self._kept.forget(unit.name)
            for extent in unit.kept:
                self._kept.files.release(extent, for_good=self._drops_pages)


def _read_bytes(unit: StreamedUnit) -> int:
    """What is read of the files each time that a unit is brought in."""
    sources = (entry for step in unit.made.steps for entry, _ in step.sources)
    return sum(entry.nbytes for entry in (*unit.dense, *unit.kept, *sources))


@torch.no_grad()
def make(unit: Unit, parameters: frozenset[str], skeleton: Skeleton, files: WeightFiles, device: torch.device) -> dict[str, Tensor]:
    """The tensors of `unit` in memory of their own, those in `parameters` as parameters without gradient."""
    reader = UnitReader(unit, skeleton, files, device)
    values: dict[str, Tensor] = {}
    for step in unit.steps:
        for name, value in reader.run(step).items():
            kept = _in_own_memory(value) if step.transient_bytes else value
            values[name] = nn.Parameter(kept, requires_grad=False) if name in parameters else kept
    return values


def _in_own_memory(value: Tensor) -> Tensor:
    """What a conversion made, where dropping it gives the memory back: torch's own allocator may keep it for the next tensor."""
    if value.device.type != "cpu" or not value.is_contiguous():  # other strides, other kernels, other rounding
        return value
    return Arena(value.nbytes).empty(tuple(value.shape), value.dtype).copy_(value)
