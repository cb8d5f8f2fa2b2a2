"""A model whose layers can be run a few at a time, its weights read when they are used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from os import PathLike
from typing import Any

from torch import Tensor, nn

from ..loader.checkpoint import Checkpoint
from ..loader.errors import UsageError
from ..loader.loading import plan_load
from ..loader.settings import LoadingStrategy, ModelLoadingConfig
from .identity import ModelIdentity, identify
from .passage import Boundary, Outcome, Passage
from .stacks import LayerStack, choose_stack, find_stacks


class LayeredModel:
    """A model, its stacks of layers, and what runs some of them.

    Weights are streamed unless `settings` ask for another strategy or for quantization. What is computed is what the whole model would
    compute, to the last bit. A checkpoint that is `opened` is not opened again.
    """

    def __init__(self, settings: ModelLoadingConfig, *, opened: Checkpoint | None = None) -> None:
        if settings.is_for_mlx:
            raise UsageError("layers are run by torch, not by MLX", hint="take --device mlx out: mps uses Apple's GPU")
        if settings.loading_strategy is None and settings.quantization_config is None:
            settings = replace(settings, loading_strategy=LoadingStrategy.STREAMING)
        self._planned = plan_load(settings, checkpoint=opened)
        self.loaded = self._planned.execute()
        self.model = self.loaded.model
        self.stacks = find_stacks(self.model)
        self._structure = self._planned.checkpoint.architecture.structure

    @classmethod
    def open(cls, model: str | PathLike[str] | ModelLoadingConfig | LayeredModel) -> LayeredModel:
        """The model that is named, that settings ask for, or that is open already."""
        if isinstance(model, LayeredModel):
            return model
        return cls(model if isinstance(model, ModelLoadingConfig) else ModelLoadingConfig(model))

    @cached_property
    def identity(self) -> ModelIdentity:
        """What a state of it is known by."""
        return identify(self._planned)

    @cached_property
    def main(self) -> LayerStack:
        """The stack that the head reads. Raises UsageError for a model without layers."""
        return self.stack(None)

    def stack(self, asked: str | None) -> LayerStack:
        """The stack of that name or role, None for the main one. Raises UsageError where there is none."""
        return choose_stack(asked, self.stacks, self._structure, self.loaded.plan)

    def most_layers(self, stack: LayerStack) -> int:
        """How many layers a forward may go through: more than there are where the config says so (ALBERT's are gone through again)."""
        stated = getattr(self.model.config.get_text_config(), "num_hidden_layers", 0) if stack is self.main else 0
        return max(len(stack.layers), stated if isinstance(stated, int) else 0)

    def for_last_token(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs, and that logits of the last token are enough, in models that can be told so."""
        accepted = inspect.signature(self.model.forward).parameters
        return {**inputs, "logits_to_keep": 1} if "logits_to_keep" in accepted else inputs

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        start: Boundary | None = None,
        stop: tuple[str, int] | None = None,
        instead: Mapping[tuple[str, int], nn.Module] | None = None,
        **options: Any,
    ) -> Outcome:
        """Run the model on `inputs`, or on from `start`, to the end or to the call `stop` of a stack; the rest are a Passage's options."""
        instead = instead or {}
        if self.loaded.streamer is not None:
            replaced = {self._names[id(self.stacks[stack].layers[number])] for stack, number in instead}
            self.loaded.streamer.residency.expect(self._units_between(start, stop) - replaced)
        device = self.model.device
        placed = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
        return Passage(self.stacks, start=start, stop=stop, instead=instead, **options).run(self.model, placed)

    @cached_property
    def _names(self) -> Mapping[int, str]:
        """Every module's name."""
        return {id(module): name for name, module in self.model.named_modules()}

    def _units_between(self, start: Boundary | None, stop: tuple[str, int] | None) -> set[str]:
        """Names of the units that such a run will use: no layer before `start` or after `stop`, and without it what lies in no stack."""
        layers, wanted = set[str](), set[str]()
        for stack in self.stacks.values():
            here = [self._names[id(layer)] for layer in stack.layers]
            first = 0 if start is None else len(start.outputs.get(stack.name, ()))
            last = stop[1] if stop is not None and stop[0] == stack.name else None
            layers.update(here)
            wanted.update(here[first:last])
        units = [unit.name for unit in self.loaded.plan.units]
        return wanted if stop is not None else wanted.union(units) - (layers - wanted)
