"""Filling a model from a plan, unit by unit: mapped pages where nothing changes, one copy where something does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..fresh_memory import FreshMemory
from ..phases import PhaseClock
from ..plan import LoadPlan, Step, Unit
from ..tensors import TensorEntry
from .allocation import Arena, Scratch
from .quantized_cache import QuantizedCache
from .skeleton import Skeleton
from .solo_threads import solo_threads
from .weight_files import WeightFiles

_UNITS_AT_ONCE = 2  # so that no thread waits for the last step of a unit
_UNITS_READ_AHEAD = 3

Progress = Callable[[Unit], None]
Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]


def fill(
    skeleton: Skeleton,
    plan: LoadPlan,
    files: WeightFiles,
    *,
    device: torch.device,
    workers: int = 1,
    progress: Progress | None = None,
    cache: QuantizedCache | None = None,
    clock: PhaseClock | None = None,
    fresh: FreshMemory | None = None,
) -> None:
    """Read every unit of `plan` into the skeleton's model on `device`, `workers` steps at once, of no more than two units.

    What `cache` holds of a unit's quantized weights is taken from there, and what it lacks is put there. `clock` learns what took how long.
    Copies go to `fresh` memory first.
    """
    clock = clock or PhaseClock()
    scratch = Scratch()
    with solo_threads(workers) as pool, ThreadPoolExecutor(1) as disk:
        under_way: deque[_UnitUnderWay] = deque()
        for unit in _with_disk_ahead(plan.units, files, device, disk, cache):
            steps = _take(unit, skeleton, cache, device, clock) if cache is not None and unit.is_quantized else unit.steps
            run = UnitReader(unit, skeleton, files, device, clock, fresh, scratch).run
            under_way.append(_UnitUnderWay(unit, [(step, pool.submit(run, step)) for step in steps]))
            if len(under_way) == _UNITS_AT_ONCE:
                under_way.popleft().end(skeleton, cache, progress, clock)
        for unit in under_way:
            unit.end(skeleton, cache, progress, clock)


@dataclass(frozen=True)
class _UnitUnderWay:
    unit: Unit
    steps: list[tuple[Step, Future[Mapping[str, Tensor]]]]

    def end(self, skeleton: Skeleton, cache: QuantizedCache | None, progress: Progress | None, clock: PhaseClock) -> None:
        """Wait for the tensors of the unit, and place them."""
        quantized: dict[str, Tensor] = {}
        for step, made in self.steps:
            values = made.result()
            with clock.phase("place"):
                for name, value in values.items():
                    skeleton.place(name, value)
            quantized.update(values if step.quantized else {})
        if cache is not None and quantized:
            cache.keep(self.unit.name, {name: skeleton.to_parts(value) for name, value in quantized.items()})
        if progress is not None:
            progress(self.unit)


def _with_disk_ahead(
    units: Sequence[Unit], files: WeightFiles, device: torch.device, disk: Executor, cache: QuantizedCache | None
) -> Iterator[Unit]:
    """The units, while the disk reads what the next ones will copy; pages that become the model's are read when they are used."""
    for number, unit in enumerate(units):
        last = number + _UNITS_READ_AHEAD
        for coming in units[number and last - 1 : last]:
            is_kept = cache is not None and cache.holds(coming.name)
            steps = [step for step in coming.steps if not (is_kept and step.quantized) and (device.type != "cpu" or not step.is_view)]
            disk.submit(files.read_ahead, [entry for step in steps for entry, _ in step.sources])
        yield unit


def _take(unit: Unit, skeleton: Skeleton, cache: QuantizedCache, device: torch.device, clock: PhaseClock) -> tuple[Step, ...]:
    """Place what `cache` holds of a unit's quantized weights; returns the steps that are left."""
    with clock.phase("cache"):
        weights = cache.take(unit.name, device)
    if weights is None:
        return unit.steps
    with clock.phase("place"):
        for name, parts in weights.items():
            skeleton.place(name, skeleton.from_parts(name, parts))
    return tuple(step for step in unit.steps if not step.quantized)


class UnitReader:
    """Carries out the steps of one unit on one device. Copies that stay on the CPU go to one block of memory for the whole unit."""

    def __init__(
        self,
        unit: Unit,
        skeleton: Skeleton,
        files: WeightFiles,
        device: torch.device,
        clock: PhaseClock | None = None,
        fresh: FreshMemory | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self._scratch = scratch or Scratch()
        self._skeleton = skeleton
        self._files = files
        self._device = device
        self._clock = clock or PhaseClock()
        self._early = dict(_early_copies(unit, fresh)) if fresh is not None and device.type == "cpu" else {}
        made = [step for step in unit.steps if device.type == "cpu" and step.targets[0].name not in self._early]
        kept = [step.target_bytes for step in made if step.is_copy or step.quantized]
        self._arena = Arena(sum(kept), pieces=len(kept), fresh=fresh)

    @torch.no_grad()
    def run(self, step: Step) -> Mapping[str, Tensor]:
        """The model's tensors that `step` makes, by name."""
        with self._clock.phase("convert"):
            if step.is_a_stack and not step.quantized:
                return {step.targets[0].name: self._stacked(step)}
            made = self._converted(step)
        if step.quantized:
            quantize = partial(self._skeleton.quantize, allocate=self._arena.empty)
            with self._clock.phase("quantize"):
                made = {name: part for target, value in made.items() for name, part in quantize(target, value).items()}
        if not step.is_view:
            for entry, _ in step.sources:
                self._files.release(entry)
        return made

    def _converted(self, step: Step) -> Mapping[str, Tensor]:
        """The tensors of the step before any quantization."""
        target, conversion = step.targets[0], step.conversion
        if target.name in self._early:
            return {target.name: self._early.pop(target.name)}
        if conversion is None:
            allocate = self._arena.empty if step.is_copy else self._scratch.empty  # what is quantized is not needed afterwards
            return {target.name: self._read(step.sources[0][0], target.dtype, allocate)}
        dtype = None if conversion.keeps_stored_dtype else target.dtype
        return conversion.run([(entry.name, pattern, partial(self._read, entry, dtype, _fresh)) for entry, pattern in step.sources])

    def _read(self, entry: TensorEntry, dtype: torch.dtype | None, allocate: Allocate) -> Tensor:
        with self._clock.phase("read"):
            stored = self._files.read_to(entry, self._device)
        dtype = dtype or stored.dtype
        if self._device.type != "cpu":
            return stored.to(dtype)
        return stored if stored.dtype == dtype else allocate(entry.shape, dtype).copy_(stored)

    def _stacked(self, step: Step) -> Tensor:
        """Many equal tensors (experts) side by side in one: each copied once, straight to its place."""
        target = step.targets[0]
        allocate = self._arena.empty if self._device.type == "cpu" else partial(torch.empty, device=self._device)
        whole = allocate(target.shape, dtype=target.dtype)
        start = 0
        for entries in step.sources_by_pattern:
            width = entries[0].shape[0] if len(step.sources_by_pattern) > 1 else whole.shape[1]
            for index, entry in enumerate(entries):
                self._files.read_into(entry, whole[index].narrow(0, start, width))
            start += width
        return whole


def _early_copies(unit: Unit, fresh: FreshMemory) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a unit that are there before anybody reads."""
    for step in unit.steps:
        target, (entry, _) = step.targets[0], step.sources[0]
        if step.is_copy and step.conversion is None and target.dtype == torch.float32 and (copy := fresh.copy_of(entry)) is not None:
            yield target.name, torch.frombuffer(copy, dtype=torch.float32).view(target.shape)


def _fresh(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)
