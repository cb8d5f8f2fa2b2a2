"""Filling a model from a plan, unit by unit: mapped pages where nothing changes, one copy where something does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from ..plan import LoadPlan, Step, Unit
from ..tensors import TensorEntry
from .allocation import Arena
from .skeleton import Skeleton
from .weight_files import WeightFiles

Progress = Callable[[Unit], None]


def fill(
    skeleton: Skeleton,
    plan: LoadPlan,
    files: WeightFiles,
    *,
    device: torch.device,
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Read every unit of `plan` into the skeleton's model on `device`, `workers` steps of a unit at once."""
    with ThreadPoolExecutor(workers) as pool:
        for unit in plan.units:
            for values in pool.map(UnitReader(unit, files, device).run, unit.steps):
                for name, value in values.items():
                    skeleton.place(name, value)
            if progress is not None:
                progress(unit)


class UnitReader:
    """Carries out the steps of one unit on one device. Copies on the CPU go to one block of memory for the whole unit."""

    def __init__(self, unit: Unit, files: WeightFiles, device: torch.device) -> None:
        self._files = files
        self._device = device
        self._arena = Arena(unit.target_bytes if device.type == "cpu" and any(map(_copies, unit.steps)) else 0, pieces=len(unit.steps))

    @torch.no_grad()
    def run(self, step: Step) -> Mapping[str, Tensor]:
        """The model's tensors that `step` makes, by name."""
        target = step.targets[0]
        if step.conversion is None:
            return {target.name: self._read(step.sources[0][0], target.dtype)}
        if step.is_a_stack:
            return {target.name: self._stacked(step)}
        reads = [(entry.name, pattern, partial(self._read, entry, target.dtype)) for entry, pattern in step.sources]
        return step.conversion.run(reads)

    def _read(self, entry: TensorEntry, dtype: torch.dtype) -> Tensor:
        stored = self._files.read(entry)
        if self._device.type != "cpu":
            return stored.to(self._device).to(dtype)
        if stored.dtype == dtype:
            return stored
        copy = self._arena.empty(entry.shape, dtype).copy_(stored)
        self._files.release(entry)
        return copy

    def _stacked(self, step: Step) -> Tensor:
        """Many equal tensors (experts) side by side in one: each copied once, straight to its place."""
        target = step.targets[0]
        whole = self._arena.empty(target.shape, target.dtype) if self._device.type == "cpu" else torch.empty(
            target.shape, dtype=target.dtype, device=self._device
        )
        start = 0
        for entries in step.sources_by_pattern:
            width = entries[0].shape[0] if len(step.sources_by_pattern) > 1 else whole.shape[1]
            for index, entry in enumerate(entries):
                whole[index].narrow(0, start, width).copy_(self._files.read(entry))
                self._files.release(entry)
            start += width
        return whole


def _copies(step: Step) -> bool:
    """Whether the step's tensors can't be the file's own pages."""
    from .weight_files import TORCH_DTYPES

    return step.conversion is not None or TORCH_DTYPES.get(step.sources[0][0].dtype) != step.targets[0].dtype
