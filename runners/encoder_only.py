"""Encoders: BERT, XLM-R and their kin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..loader.loading import load
from ..loader.planned import LoadedModel
from ..loader.settings import Head
from .base import BaseModelRunner, beside, given
from .outputs import ModelOutputs


class EncoderModelRunner(BaseModelRunner):
    """An encoder, with its masked-LM head where the checkpoint holds one; a model that pools with a layer of its own keeps that instead."""

    head = Head.MASKED_LM

    def _load_model(self) -> LoadedModel:
        head = Head.NONE if self.spec.pooling == "pooler" else self.settings.head
        return load(replace(self.settings, head=self.head if head is Head.OWN else head))

    def _run(self, inputs: dict[str, Tensor], *, stack: str | None, logits: bool, **wanted: Any) -> ModelOutputs:
        del stack  # there is one
        model = self.model if logits else self.model.base_model
        outputs = model(**inputs, **wanted)
        return ModelOutputs(
            inputs["input_ids"],
            inputs["attention_mask"],
            logits=outputs.logits if logits else None,
            encoder_hidden_states=given(outputs, "hidden_states"),
            extra=beside(attentions=given(outputs, "attentions"), pooler_output=getattr(outputs, "pooler_output", None)),
        )
