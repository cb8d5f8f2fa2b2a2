"""The first thing that a loaded model is asked: it touches the weights, so that nothing is called loaded that was only mapped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.streamers import BaseStreamer

from ..errors import UsageError
from ..inputs import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from .phases import Phases

_PAGE = 4096


@torch.inference_mode()
def ask(model: PreTrainedModel, phases: Phases) -> None:
    """One forward of one token. Models that take none have a byte of every page of their weights read."""
    if model.main_input_name != "input_ids":
        for weight in model.parameters():
            weight.detach().view(-1).view(torch.uint8)[::_PAGE].sum()
        phases.end("first_forward")
        return
    token = torch.tensor([[1]], device=model.device)
    extra = {"decoder_input_ids": token} if model.config.is_encoder_decoder else {}
    output = model(input_ids=token, **extra)
    first = int(output[0][0, -1].float().argmax())
    phases.end("first_forward")
    phases.tell(answer=first)


def go_on(model: Any, prompt: str, folder: Path, count: int, phases: Phases) -> None:
    """Generate `count` tokens after `prompt`, the likeliest each time, whatever ends a text.

    The first forward lasts till the first token. Raises UsageError for a model that does not generate, or a prompt without a token.
    """
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
