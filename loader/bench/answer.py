"""The first thing that a loaded model is asked: it touches the weights, so that nothing is called loaded that was only mapped."""

from __future__ import annotations

import time
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.streamers import BaseStreamer

from ..errors import UsageError
from ..inputs import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from .phases import Phases

_PAGE = 4096
_STRIDE = 7919  # a prime: neighbouring tokens are far apart in any vocabulary


def ask(model: Any, phases: Phases, *, context: int = 1, batch: int = 1) -> None:
    """One forward over `batch` sequences of `context` tokens, of a model of torch; of one token, of mlx-lm's."""
    first = _forward(model, context, batch) if _is_of_torch(model) else _forward_mlx(model)
    phases.end("first_forward")
    phases.tell(answer=first)


def _is_of_torch(model: object) -> bool:
    return isinstance(model, torch.nn.Module)


@torch.inference_mode()
def _forward(model: Any, context: int, batch: int) -> int | None:
    """The likeliest token. A model that goes on from its tokens has its head run over the last one, as generating does.

    Models that take no tokens have a byte of every page of their weights read.
    """
    if model.main_input_name != "input_ids":
        for weight in model.parameters():
            weight.detach().reshape(-1).view(torch.uint8)[::_PAGE].sum()
        return None
    tokens = _tokens(model, context * batch).view(batch, context)
    extra: dict[str, Any] = {"decoder_input_ids": tokens[:, :1]} if model.config.is_encoder_decoder else {}
    if "logits_to_keep" in signature(model.forward).parameters:
        extra["logits_to_keep"] = 1
    return int(model(input_ids=tokens, **extra)[0][0, -1].float().argmax())


def _tokens(model: Any, count: int) -> torch.Tensor:
    """Tokens of all the vocabulary, the same ones each time; the first is 1."""
    words = model.config.get_text_config().vocab_size
    return (1 + torch.arange(count, device=model.device) * _STRIDE) % words


def _forward_mlx(model: Any) -> int:
    """The same; MLX computes what somebody looks at."""
    core: Any = import_module("mlx.core")
    return int(core.argmax(model(core.array([[1]]))[0, -1]).item())


def go_on(model: Any, prompt: str, folder: Path, count: int, phases: Phases) -> None:
    """Generate `count` tokens after `prompt`, the likeliest each time, whatever ends a text.

    The first forward lasts till the first token. Raises UsageError for a model that does not generate, or a prompt without a token.
    """
    if not _is_of_torch(model):
        raise UsageError("tokens a second are not measured with MLX", hint="leave --prompt out")
    if not model.can_generate():
        raise UsageError(f"{type(model).__name__} is no model that goes on from a prompt")
    inputs = load_tokenizer(folder)(prompt, return_tensors="pt").to(model.device)
    if inputs["input_ids"].shape[1] == 0:
        raise UsageError("the prompt holds no token to go on from")
    stamps, begun = _Stamps(), time.monotonic()
    tokens = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, max_length=None, do_sample=False, streamer=stamps)
    _, first, *rest = stamps.times  # the prompt itself comes through, too
    phases.end("first_forward", at=first)
    rate = len(rest) / (rest[-1] - first) if rest else None
    phases.tell(first_token_seconds=first - begun, tokens_per_second=rate, answer=int(tokens[0, -count]))


class _Stamps(BaseStreamer):
    """The moments at which tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        del value
        self.times.append(time.monotonic())

    def end(self) -> None:
        """Nothing is kept back."""
