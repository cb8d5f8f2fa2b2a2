"""The first thing that a loaded model is asked: it touches the weights, so that nothing is called loaded that was only mapped."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.streamers import BaseStreamer

from ..errors import UsageError
from ..inputs import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from .phases import Phases

_PAGE = 4096


def ask(model: Any, phases: Phases) -> None:
    """One forward of one token, of a model of torch or of mlx-lm."""
    first = _forward(model) if _is_of_torch(model) else _forward_mlx(model)
    phases.end("first_forward")
    phases.tell(answer=first)


def _is_of_torch(model: object) -> bool:
    return isinstance(model, torch.nn.Module)


@torch.inference_mode()
def _forward(model: Any) -> int | None:
    """The likeliest token. Models that take none have a byte of every page of their weights read."""
    if model.main_input_name != "input_ids":
        for weight in model.parameters():
            weight.detach().reshape(-1).view(torch.uint8)[::_PAGE].sum()
        return None
    token = torch.tensor([[1]], device=model.device)
    extra = {"decoder_input_ids": token} if model.config.is_encoder_decoder else {}
    return int(model(input_ids=token, **extra)[0][0, -1].float().argmax())


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
