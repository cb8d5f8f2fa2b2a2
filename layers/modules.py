"""Single modules of a model (a layer, the embedding, the head) with weights of their own, without the rest of it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..loader.errors import InvalidCheckpointError, UsageError
from ..loader.execution.full import UnitReader
from ..loader.execution.weight_files import WeightFiles
from ..loader.plan import Step, Unit
from ..loader.selection import nearest

if TYPE_CHECKING:
    from ..loader.planned import PlannedLoad


class Modules:
    """What a planned load would fill, module by module. Nothing is read but the tensors of what is asked for."""

    def __init__(self, planned: PlannedLoad) -> None:
        self._planned = planned
        self.model = planned.skeleton.model
        planned.skeleton.finish_empty(planned.device)
        self._names = {id(module): name for name, module in self.model.named_modules()}

    def name_of(self, module: nn.Module) -> str:
        """The name of one of the model's modules."""
        return self._names[id(module)]

    def holder_of(self, tensor: str) -> str:
        """The name of the module that one of the checkpoint's tensors goes to. Raises UsageError for a tensor that goes nowhere."""
        for step in self._planned.plan.steps:
            if any(entry.name == tensor for entry, _ in step.sources):
                return step.targets[0].name.rpartition(".")[0]
        known = list(self._planned.checkpoint.tensors)
        raise UsageError(f"no module of the model is filled from a tensor '{tensor}'", hint=nearest(known, tensor))

    def load(self, name: str) -> nn.Module:
        """The module of that name, as loading the whole model would fill it; tied weights too. It is the caller's alone.

        Raises InvalidCheckpointError where the checkpoint lacks one of its tensors.
        """
        empty = self.model.get_submodule(name)
        module = copy.deepcopy(empty, {id(weight): weight for weight in empty.parameters()})  # which have no memory, and are replaced
        parent, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, module)
        try:
            self._fill(name)
        finally:
            setattr(self.model.get_submodule(parent), leaf, empty)
        lacking = next((key for key, tensor in module.state_dict(keep_vars=True).items() if tensor.is_meta), None)
        if lacking is not None:
            message = "the checkpoint does not hold it"
            raise InvalidCheckpointError(message, file=self._planned.checkpoint.location, tensor=f"{name}.{lacking}")
        return module

    def _fill(self, name: str) -> None:
        """Put the tensors of a module into it; those that are quantized from the cache, or into it as well."""
        planned, skeleton = self._planned, self._planned.skeleton
        inside = {target for target in skeleton.targets if target.startswith(f"{name}.")}
        steps = tuple(step for step in planned.plan.steps if self._places(step, inside))
        unit = next((unit for unit in planned.plan.units if unit.name == name and unit.is_quantized), None)
        cache = None if unit is None else planned.open_cache([unit])
        if cache is None:
            self._read(name, steps, inside)
            return
        with cache:
            kept = cache.take(name, planned.device)
            for target, parts in (kept or {}).items():
                skeleton.place(target, skeleton.from_parts(target, parts))
            quantized = self._read(name, steps if kept is None else tuple(step for step in steps if not step.quantized), inside)
            if kept is None:
                cache.keep(name, {target: skeleton.to_parts(value) for target, value in quantized.items()})
            cache.close()

    def _read(self, name: str, steps: tuple[Step, ...], inside: set[str]) -> dict[str, Tensor]:
        """Carry out `steps` and place what they make; returns what is quantized of it."""
        skeleton, files = self._planned.skeleton, WeightFiles(self._planned.weights, mapped=self._planned.settings.mmap)
        if not isinstance(self.model.get_submodule(name), nn.Embedding):  # of which rows are looked up
            files.read_ahead(entry for step in steps for entry, _ in step.sources)
        reader = UnitReader(Unit(name, steps), skeleton, files, self._planned.device)
        quantized: dict[str, Tensor] = {}
        for step in steps:
            places, values = self._places(step, inside), reader.run(step)
            quantized.update(values if step.quantized else {})
            for made, value in values.items():
                for place in places.get(made, [made] if made.startswith(f"{name}.") else []):
                    skeleton.place(place, value)
        files.check_unchanged()
        files.close()
        return quantized

    def _places(self, step: Step, inside: set[str]) -> dict[str, list[str]]:
        """Those of the names `inside` that each target of a step fills: its own, and those that are tied to it."""
        ties = self._planned.plan.ties
        found: dict[str, list[str]] = {}
        for target in step.targets:
            tied = {name for pair in ties.items() if target.name in pair for name in pair}
            if here := sorted(inside & {target.name, *tied}):
                found[target.name] = here
        return found
