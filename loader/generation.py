"""Going on from a prompt with a model that was loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .architecture import Kind
from .errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_generates(model: PreTrainedModel, kind: Kind | None) -> None:
    """Raises UsageError for a model that does not go on from a prompt."""
    if not model.can_generate() or kind is Kind.ENCODER_ONLY:
        raise UsageError(f"{type(model).__name__} is no model that goes on from a prompt")


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, *, max_new_tokens: int, stream: bool = False
) -> tuple[str, int]:
    """What the model says after `prompt`, and in how many tokens; with `stream` also written to stdout as it comes, after the prompt.

    Raises UsageError for a prompt without a token.
    """
    from transformers import TextStreamer

    generating: Any = model  # `generate` comes from a mixin that its type does not show
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    if inputs["input_ids"].shape[1] == 0:
        raise UsageError("the prompt holds no token to go on from")
    streamer = TextStreamer(tokenizer, skip_special_tokens=True) if stream else None
    tokens = generating.generate(**inputs, max_new_tokens=max_new_tokens, max_length=None, streamer=streamer)[0]
    start = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    return str(tokenizer.decode(tokens[start:], skip_special_tokens=True)), int(tokens.shape[0]) - start
