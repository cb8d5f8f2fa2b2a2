"""What a runner gives back for a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ModelOutputs:
    """Ids, mask, and what the model made of them.

    Hidden states are tuples, the embeddings at index 0 and a layer's output at each further one, as transformers gives them; those of
    layers that were not asked for are None. A decoder-only model has no encoder's, an encoder no decoder's. `logits` is None without a
    head. `extra` holds `attentions` (of a seq2seq model the encoder's, with `decoder_attentions` and `cross_attentions` beside) where
    the model gives them, `pooler_output` where it has a pooler, and a seq2seq model's `decoder_input_ids`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    logits: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def hidden_states(self) -> tuple[Tensor, ...]:
        """Those of the encoder, else those of the decoder."""
        return self.encoder_hidden_states or self.decoder_hidden_states or ()
