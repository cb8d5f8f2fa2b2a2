"""Single modules of a model (a layer, the embedding, the head) with weights of their own, without the rest of it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..loader.errors import InvalidCheckpointError
from ..loader.execution.full import UnitReader
from ..loader.execution.weight_files import WeightFiles
from ..loader.plan import Unit

if TYPE_CHECKING:
    from ..loader.planned import PlannedLoad


class Modules:
    """What a planned load would fill, module by module. Nothing is read but the tensors of what is asked for."""

    def __init__(self, planned: PlannedLoad) -> None:
        self._planned = planned
        self.model = planned.skeleton.model
        planned.skeleton.finish_empty(planned.device)

    def load(self, name: str, *, device: torch.device | None = None) -> nn.Module:
        """The module of that name, as loading the whole model would fill it; tied weights too. It is the caller's alone.

        Raises InvalidCheckpointError where the checkpoint lacks one of its tensors.
        """
        module = self.model.get_submodule(name)
        parent, _, leaf = name.rpartition(".")
        empty = copy.deepcopy(module)
        self._fill(name, self._planned.device if device is None else device)
        setattr(self.model.get_submodule(parent), leaf, empty)
        lacking = next((key for key, tensor in module.state_dict(keep_vars=True).items() if tensor.is_meta), None)
        if lacking is not None:
            message = "the checkpoint does not hold it"
            raise InvalidCheckpointError(message, file=self._planned.checkpoint.location, tensor=f"{name}.{lacking}")
        return module if device is None else module.to(device)

    def _fill(self, name: str, device: torch.device) -> None:
        plan, skeleton = self._planned.plan, self._planned.skeleton
        wanted = {target for target in skeleton.targets if target.startswith(f"{name}.")}
        tied = {plan.ties[target]: target for target in wanted if target in plan.ties}  # by the name that the checkpoint has them under
        stored = wanted | tied.keys()
        steps = tuple(step for step in plan.steps if any(target.name in stored for target in step.targets))
        files = WeightFiles(self._planned.weights, mapped=self._planned.settings.mmap)
        reader = UnitReader(Unit(name, steps), skeleton, files, device)
        for step in steps:
            for target, value in reader.run(step).items():
                for place in {target, tied.get(target, target)}:
                    if place.startswith(f"{name}."):
                        skeleton.place(place, value)
        files.check_unchanged()
        files.close()
