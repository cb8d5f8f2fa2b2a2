"""Going on from several prompts at once: one pass over the weights gives each of them its next token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..loader.generation import check_generates
from .inputs import prompts_in

if TYPE_CHECKING:
    from ..loader.planned import LoadedModel


def generate(loaded: LoadedModel, inputs: Mapping[str, Any], *, max_new_tokens: int) -> Tensor:
    """The tokens after each prompt, a row each, ended and filled up as the model's generation config says; the model's own `generate`.

    Keys and values are cached in memory, weights are read again for every token, within the budget. Raises UsageError for a model that
    does not generate.
    """
    check_generates(loaded.model, loaded.kind)
    model: Any = loaded.model  # `generate` comes from a mixin that its type does not show
    if loaded.streamer is not None:
        loaded.streamer.residency.expect(None)
    given: dict[str, Any] = {
        name: value.to(model.device) for name, value in inputs.items() if isinstance(value, Tensor) and name != "decoder_input_ids"
    }
    if model.config.is_encoder_decoder:
        given["decoder_start_token_id"] = int(inputs["decoder_input_ids"][0, 0])
    tokens: Tensor = model.generate(**given, max_new_tokens=max_new_tokens, max_length=None)
    return tokens if model.config.is_encoder_decoder else tokens[:, prompts_in(inputs).shape[1] :]
