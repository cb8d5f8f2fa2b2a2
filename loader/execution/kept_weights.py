"""Quantized weights of a streamed model: made once, unit by unit, and read from the cache's files from then on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import InvalidCheckpointError, MlloadError
from ..plan import Unit
from ..tensors import TensorEntry
from .full import UnitReader
from .quantized_cache import QuantizedCache, read_parts
from .skeleton import Skeleton
from .weight_files import WeightFiles, extents


class KeptWeights:
    """What the cache keeps of each unit, in the form in which this CPU computes. `files` are the cache's own; they must stay open."""

    def __init__(self, skeleton: Skeleton, cache: QuantizedCache) -> None:
        self.files = WeightFiles(cache.folder)
        self._skeleton = skeleton
        self._cache = cache
        self._extents: dict[str, list[TensorEntry]] = {}

    def place(self, unit: Unit, sources: WeightFiles) -> set[str]:
        """Make the pages of a unit's quantized weights the model's; returns their names.

        What the cache lacks is quantized first. Raises MlloadError where it can't be kept.
        """
        while (entries := self._cache.entries(unit.name)) is None:
            self._quantize(unit, sources)
        self._extents[unit.name] = extents(entries)
        weights = read_parts(entries, self.files)
        for name, parts in weights.items():
            self._skeleton.place(name, self._skeleton.from_parts(name, parts))
        return set(weights)

    def extents(self, unit: str) -> Sequence[TensorEntry]:
        """The ranges of the cache's files that hold quantized weights of a unit."""
        return self._extents.get(unit, ())

    def _quantize(self, unit: Unit, sources: WeightFiles) -> None:
        steps = tuple(step for step in unit.steps if step.quantized)
        sources.read_ahead(entry for step in steps for entry, _ in step.sources)
        run = UnitReader(Unit(unit.name, steps), self._skeleton, sources, torch.device("cpu")).run
        made = {name: self._skeleton.to_computed_parts(value) for step in steps for name, value in run(step).items()}
        self._cache.keep(unit.name, made).result()
        if self._cache.problem is not None:
            message = f"quantized weights can't be kept, and what is not kept can't be streamed: {self._cache.problem}"
            raise MlloadError(message, hint="MLLOAD_CACHE moves them to another disk")
        if not self._cache.is_current():
            raise InvalidCheckpointError("its weights changed while they were quantized", file=unit.name, hint="try again")
