"""Quantized weights of a streamed model: made once, unit by unit, and read from the cache's files from then on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InvalidCheckpointError, MlloadError
from ..plan import Unit
from ..tensors import TensorEntry, extents
from .full import UnitReader
from .quantized_cache import QuantizedCache, read_parts, weight_of
from .skeleton import Skeleton
from .weight_files import WeightFiles


class KeptWeights:
    """What the cache keeps of each unit, in the form in which `device` computes. `files` are the cache's own; they must stay open."""

    def __init__(self, skeleton: Skeleton, cache: QuantizedCache, device: torch.device, *, mapped: bool) -> None:
        self.files = WeightFiles(cache.folder, mapped=mapped)
        self._are_pages = mapped and device.type == "cpu"
        self._skeleton = skeleton
        self._cache = cache
        self._device = device
        self._entries: dict[str, tuple[TensorEntry, ...]] = {}
        self._empty: dict[str, dict[str, Tensor]] = {}

    def place(self, unit: Unit, sources: WeightFiles) -> set[str]:
        """Have a unit's quantized weights ready, as pages that are the model's from now on if they can be that; returns their names.

        What the cache lacks is quantized first. Raises MlloadError where it can't be kept.
        """
        while (entries := self._cache.entries(unit.name)) is None:
            self._quantize(unit, sources)
        self._entries[unit.name] = entries
        names = {weight_of(entry) for entry in entries}
        self._empty[unit.name] = {name: self._skeleton.model.get_parameter_or_buffer(name) for name in names}
        weights = self._read(unit.name) if self._are_pages else self._empty[unit.name]
        for name, weight in weights.items():
            self._skeleton.place(name, weight)
        return names

    def extents(self, unit: str) -> Sequence[TensorEntry]:
        """The ranges of the cache's files that hold quantized weights of a unit."""
        return extents(self._entries.get(unit, ()))

    def bring(self, unit: str) -> dict[str, Tensor]:
        """A unit's quantized weights in memory of their own; none where they are the model's already."""
        return {} if self._are_pages else self._read(unit)

    def forget(self, unit: str) -> None:
        """Have no layer of a unit hold anything of weights that are to be dropped."""
        if not self._are_pages:
            for name in self._empty.get(unit, ()):
                self._skeleton.forget_quantized(name)

    def _read(self, unit: str) -> dict[str, Tensor]:
        empty = self._empty.get(unit, {})
        weights = read_parts(self._entries.get(unit, ()), self.files, self._device)
        return {name: self._skeleton.from_parts(name, parts, empty=empty[name]) for name, parts in weights.items()}

    def _quantize(self, unit: Unit, sources: WeightFiles) -> None:
        steps = tuple(step for step in unit.steps if step.quantized)
        sources.read_ahead(entry for step in steps for entry, _ in step.sources)
        run = UnitReader(Unit(unit.name, steps), self._skeleton, sources, self._device).run
        made = {name: self._skeleton.to_computed_parts(value) for step in steps for name, value in run(step).items()}
        self._cache.keep(unit.name, made).result()
        if self._cache.problem is not None:
            message = f"quantized weights can't be kept, and what is not kept can't be streamed: {self._cache.problem}"
            raise MlloadError(message, hint="MLLOAD_CACHE moves them to another disk")
        if not self._cache.is_current():
            raise InvalidCheckpointError("its weights changed while they were quantized", file=unit.name, hint="try again")
