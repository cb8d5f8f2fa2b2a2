"""Encoder-decoders: T5, BART and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..loader.loading import load
from ..loader.planned import LoadedModel
from ..loader.settings import Head
from .base import BaseModelRunner, beside, given
from .outputs import ModelOutputs

if TYPE_CHECKING:
    from transformers import BatchEncoding


class Seq2SeqModelRunner(BaseModelRunner):
    """An encoder-decoder: the encoder reads the text, the decoder goes over `targets`, or over the same text where there are none."""

    head = Head.SEQ2SEQ_LM

    def _load_model(self) -> LoadedModel:
        return load(replace(self.settings, head=self.head if self.settings.head is Head.OWN else self.settings.head))

    def tokenize(
        self, texts: str | Sequence[str], *, max_length: int | None = None, targets: str | Sequence[str] | None = None
    ) -> BatchEncoding:
        """As every runner's; `targets` are what the decoder is to say, shifted by one for its input."""
        batch = super().tokenize(texts, max_length=max_length)
        wanted = batch if targets is None else super().tokenize(targets, max_length=max_length)
        batch["decoder_input_ids"] = self._shifted(wanted["input_ids"])
        batch["decoder_attention_mask"] = wanted["attention_mask"].clone()
        return batch

    def _run(self, inputs: dict[str, Tensor], *, stack: str | None, logits: bool, **wanted: Any) -> ModelOutputs:
        if stack == "encoder":
            return self._run_encoder(inputs, **wanted)
        inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        if "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self._shifted(inputs["input_ids"])
            inputs["decoder_attention_mask"] = inputs["attention_mask"]
        model = self.model if logits else self.model.base_model
        outputs = model(**inputs, use_cache=False, **wanted)
        return ModelOutputs(
            inputs["input_ids"],
            inputs["attention_mask"],
            logits=outputs.logits if logits else None,
            encoder_hidden_states=given(outputs, "encoder_hidden_states"),
            decoder_hidden_states=given(outputs, "decoder_hidden_states"),
            extra=beside(
                attentions=given(outputs, "encoder_attentions"),
                decoder_attentions=given(outputs, "decoder_attentions"),
                cross_attentions=given(outputs, "cross_attentions"),
                decoder_input_ids=inputs["decoder_input_ids"],
            ),
        )

    def _run_encoder(self, inputs: dict[str, Tensor], **wanted: Any) -> ModelOutputs:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        outputs = self.model.get_encoder()(input_ids=ids, attention_mask=mask, **wanted)
        states, maps = given(outputs, "hidden_states"), given(outputs, "attentions")
        return ModelOutputs(ids, mask, encoder_hidden_states=states, extra=beside(attentions=maps))

    def _shifted(self, ids: Tensor) -> Tensor:
        """What the decoder reads while it is to say `ids`: its start token, then all but the last."""
        config = self.model.config.get_text_config()
        start = getattr(config, "decoder_start_token_id", None)
        first = torch.full_like(ids[:, :1], self.tokenizer.pad_token_id if start is None else start)  # pyright: ignore[reportArgumentType]
        return torch.cat((first, ids[:, :-1]), dim=1)
