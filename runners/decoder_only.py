"""Decoders: GPT, Llama and their kin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..loader.errors import UsageError
from ..loader.execution.model_class import class_with
from ..loader.loading import load
from ..loader.planned import LoadedModel
from ..loader.settings import Head
from .base import BaseModelRunner, beside, given
from .outputs import ModelOutputs


class DecoderModelRunner(BaseModelRunner):
    """A causal language model, quantized to 4 or 8 bits while it is loaded where that is asked; of one that also sees, its text."""

    head = Head.CAUSAL_LM

    def _load_model(self) -> LoadedModel:
        loaded = load(replace(self.settings, head=self.head if self.settings.head is Head.OWN else self.settings.head))
        if class_with(self.head, loaded.model.config) is None:
            raise UsageError(f"{type(loaded.model).__name__} is no model that goes on from text: there is no runner for it")
        return loaded

    def _run(self, inputs: dict[str, Tensor], *, stack: str | None, logits: bool, **wanted: Any) -> ModelOutputs:
        del stack  # there is one
        model = self.model if logits else self.model.base_model
        inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        outputs = model(**inputs, use_cache=False, **wanted)
        return ModelOutputs(
            inputs["input_ids"],
            inputs["attention_mask"],
            logits=outputs.logits if logits else None,
            decoder_hidden_states=given(outputs, "hidden_states"),
            extra=beside(attentions=given(outputs, "attentions")),
        )
