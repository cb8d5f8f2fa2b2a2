"""What a model is given: token ids and masks, from prompts or from ids."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..loader.architecture import Kind
from ..loader.errors import UsageError

if TYPE_CHECKING:
    from ..loader.planned import LoadedModel


def inputs_of_texts(loaded: LoadedModel, texts: Sequence[str]) -> dict[str, Any]:
    """Token ids of `texts`, a row each; shorter ones are padded: before them in models that go on from a text, else after them."""
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "right" if loaded.kind in (Kind.ENCODER_ONLY, Kind.SEQ2SEQ) else "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    encoded = tokenizer(list(texts), return_tensors="pt", padding=len(texts) > 1)
    mask = encoded["attention_mask"] if len(texts) > 1 else None
    if encoded["input_ids"].shape[1] == 0:
        raise UsageError("the prompt holds no token")
    return inputs_of_ids(loaded, encoded["input_ids"], mask=mask)


def inputs_of_ids(loaded: LoadedModel, ids: Tensor, *, mask: Tensor | None = None) -> dict[str, Any]:
    """The model's inputs for token ids, of shape (prompts, tokens). No cache is asked for; a decoder begins with its first token.

    Raises UsageError for an id that the model has no embedding of.
    """
    model = loaded.model
    size = model.get_input_embeddings()
    if isinstance(size, nn.Embedding) and int(ids.max()) >= size.num_embeddings:
        raise UsageError(f"token {int(ids.max())} is outside the model's vocabulary of {size.num_embeddings:,}")
    accepted = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {"input_ids" if "input_ids" in accepted else "inputs": ids}
    if mask is not None and "attention_mask" in accepted:
        inputs["attention_mask"] = mask
    if "decoder_input_ids" in accepted and model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.full((ids.shape[0], 1), _first_decoder_token(model))
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


def ids_in(inputs: Mapping[str, Any]) -> Tensor:
    """The token ids that the model's logits stand for: the decoder's where it has a decoder of its own."""
    found = (inputs.get(name) for name in ("decoder_input_ids", "input_ids", "inputs"))
    return next(ids for ids in found if isinstance(ids, Tensor))


def prompts_in(inputs: Mapping[str, Any]) -> Tensor:
    """The token ids of the prompts, a row each; padding included."""
    ids = next(inputs[name] for name in ("input_ids", "inputs") if isinstance(inputs.get(name), Tensor))
    return ids if ids.ndim == 2 else ids.reshape(1, -1)


def _first_decoder_token(model: nn.Module) -> int:
    for config in (getattr(model, "generation_config", None), model.config):
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            value = getattr(config, name, None)
            if isinstance(value, int):
                return value
    return 0
