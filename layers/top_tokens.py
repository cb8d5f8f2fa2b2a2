"""The tokens that a model finds likeliest, at the places where one would look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..loader.architecture import Kind
from ..loader.errors import InvalidCheckpointError
from .inputs import ids_in, prompts_in

if TYPE_CHECKING:
    from ..loader.planned import LoadedModel


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token, as text where there is a tokenizer, with its logit and what the softmax over all tokens makes of it."""

    token: int
    text: str | None
    logit: float
    probability: float


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The likeliest tokens for one position of one prompt, the best one first."""

    prompt: int
    position: int
    tokens: tuple[Candidate, ...]


def top_tokens(logits: Tensor, inputs: Mapping[str, Any], loaded: LoadedModel, *, count: int) -> tuple[TopTokens, ...]:
    """The `count` likeliest tokens that `logits`, of shape (prompts, tokens, vocabulary), name for what the prompts leave open.

    That is what follows the last token, or, in models that fill in masked tokens, each of those. Logits of the last token alone do.
    """
    text_of = token_texts(loaded)
    return tuple(
        TopTokens(prompt, position, candidates(logits[prompt, min(position, logits.shape[1] - 1)], text_of, count=count))
        for prompt, position in open_positions(inputs, loaded)
    )


def candidates(logits: Tensor, text_of: Callable[[int], str | None], *, count: int) -> tuple[Candidate, ...]:
    """The likeliest tokens by one position's logits."""
    chances = logits.float().softmax(-1)
    best = logits.topk(min(count, logits.shape[-1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(Candidate(token, text_of(token), logit, float(chances[token])) for token, logit in pairs)


def open_positions(inputs: Mapping[str, Any], loaded: LoadedModel) -> Iterator[tuple[int, int]]:
    """Prompt and position of every token that the prompts leave open."""
    ids = ids_in(inputs)
    mask = inputs.get("attention_mask")
    for prompt, row in enumerate(ids if ids.ndim == 2 else ids[:1]):
        masked: Sequence[int] = []
        last = len(row) - 1
        if loaded.kind is Kind.ENCODER_ONLY:
            masked = torch.nonzero(row == _mask_token(loaded)).flatten().tolist()
            last = int(torch.nonzero(mask[prompt]).max()) if isinstance(mask, Tensor) else last
        yield from ((prompt, position) for position in masked or [last])


def token_texts(loaded: LoadedModel) -> Callable[[int], str | None]:
    """What gives a token's text; None for every one where the checkpoint has no tokenizer."""
    try:
        tokenizer = loaded.tokenizer
    except InvalidCheckpointError:
        return lambda _: None
    return lambda token: str(tokenizer.decode([token]))


def prompt_texts(inputs: Mapping[str, Any], loaded: LoadedModel) -> list[list[str]]:
    """The tokens of every prompt as texts, as numbers where there is no tokenizer."""
    text_of = token_texts(loaded)
    return [[text_of(token) or str(token) for token in row] for row in prompts_in(inputs).tolist()]


def _mask_token(loaded: LoadedModel) -> int:
    try:
        token = loaded.tokenizer.mask_token_id
    except InvalidCheckpointError:
        token = None
    return token if isinstance(token, int) else -1
