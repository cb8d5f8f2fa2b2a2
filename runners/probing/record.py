"""What is kept of a text, layer by layer, and the forward that gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...loader.errors import UsageError
from ...loader.text import did_you_mean
from ..base import BaseModelRunner
from ..outputs import ModelOutputs
from ..pooling import POOLINGS, Groups
from ..seq2seq import Seq2SeqModelRunner
from .encoding import Encoded, padded
from .layer_choice import choose_layers

if TYPE_CHECKING:
    from .settings import ProbeSettings

_PROBED = 2  # tokens of the forward that tells what the model gives
_STATES = {"encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states"}


@dataclass(frozen=True)
class Kept:
    """One tensor that is kept: the states of a layer, or its attention maps. `width`: elements a row, or heads."""

    name: str
    stack: str
    layer: int
    width: int
    maps: str | None = None  # under which name `ModelOutputs.extra` has them


@dataclass(frozen=True)
class Recorder:
    """Runs batches and takes out what is kept."""

    runner: BaseModelRunner
    kept: tuple[Kept, ...]
    pool: str
    stack: str | None
    dtype: torch.dtype  # of the states as the model gives them

    @property
    def rows_dtype(self) -> torch.dtype:
        """What rows are kept in: averages in float32, single states as the model has them."""
        return torch.float32 if self.pool in ("mean", "max") else self.dtype

    def rows_of(self, text: Encoded) -> int:
        """How many rows a text has in every layer."""
        if text.groups is None:
            return len(text.ids) if self.pool == "none" else 1
        return sum(len(group) for group in text.groups) if self.pool == "none" else len(text.groups)

    @torch.inference_mode()
    def record(self, texts: Sequence[Encoded]) -> Iterator[tuple[Kept, Tensor | list[Tensor]]]:
        """Run one batch: for each kept layer its rows, text after text, and for attentions a map [heads, tokens, tokens] for each text."""
        inputs = padded(self.runner, texts)
        lengths = [len(text.ids) for text in texts]
        width = max(lengths)
        outputs = _forward(self.runner, inputs, self.kept, stack=self.stack)
        groups = _groups(texts, lengths, width)
        for kept in self.kept:
            if kept.maps is not None:
                whole = outputs.extra[kept.maps][kept.layer - 1]
                yield kept, [whole[row, :, :length, :length].contiguous().cpu() for row, length in enumerate(lengths)]
            else:
                states = getattr(outputs, _STATES[kept.stack])[kept.layer]
                yield kept, groups.pooled(states, self.pool).cpu()


def make_recorder(runner: BaseModelRunner, settings: ProbeSettings) -> Recorder:
    """What `settings` ask of a model, known from a forward over two tokens. Raises UsageError for what it does not have."""
    pool = _pooling(runner, settings.pool)
    stack = _stack(runner, settings.stack)
    with torch.inference_mode():
        ids = torch.full((1, _PROBED), int(runner.tokenizer.pad_token_id))  # pyright: ignore[reportArgumentType]  # it has one
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        outputs = runner.forward(inputs, logits=False, attentions=settings.wants_maps, stack=stack)
    kept: list[Kept] = []
    dtype = runner.dtype
    for name in ("encoder", "decoder") if stack is None else (stack,):
        states = getattr(outputs, _STATES[name])
        if states is not None:
            dtype = states[0].dtype
            kept += _kept_of(outputs, states, name, settings, prefix=f"{name}." if isinstance(runner, Seq2SeqModelRunner) else "")
    if not kept:
        raise UsageError(f"{type(runner.model).__name__} gives no hidden states{f' of a stack called {stack}' if stack else ''}")
    if settings.cross_attentions and all(each.maps != "cross_attentions" for each in kept):
        raise UsageError("there are no cross-attentions to keep", hint="the decoder's layers of a seq2seq model have them")
    return Recorder(runner, tuple(kept), pool, stack, dtype)


def _kept_of(outputs: ModelOutputs, states: Sequence[Tensor], stack: str, settings: ProbeSettings, *, prefix: str) -> list[Kept]:
    layers = choose_layers(settings.layers, len(states))
    if any(state.shape[1] != _PROBED for state in states):
        raise UsageError("its layers change the length of a text, so that states belong to no token")
    kept = [Kept(f"{prefix}layer.{layer}", stack, layer, states[layer].shape[-1]) for layer in layers]
    own = "decoder_attentions" if prefix == "decoder." else "attentions"
    if settings.attentions:
        kept += _maps_of(outputs, stack, own, [layer for layer in layers if layer], name=f"{prefix}attentions")
    if settings.cross_attentions and stack == "decoder":
        kept += _maps_of(outputs, stack, "cross_attentions", [layer for layer in layers if layer], name=f"{prefix}cross_attentions")
    return kept


def _maps_of(outputs: ModelOutputs, stack: str, key: str, layers: Sequence[int], *, name: str) -> list[Kept]:
    """Attention maps, which the embeddings (layer 0) have none of."""
    found = outputs.extra.get(key)
    if found is None or len(found) < max(layers, default=0):
        raise UsageError(f"the model gives no {key.replace('_', '-')}", hint="only some architectures do")
    return [Kept(f"{name}.{layer}", stack, layer, found[layer - 1].shape[1], key) for layer in layers]


def _forward(runner: BaseModelRunner, inputs: dict[str, Tensor], kept: Sequence[Kept], *, stack: str | None) -> ModelOutputs:
    layers = sorted({each.layer for each in kept if each.maps is None})
    return runner.forward(inputs, layers=layers, logits=False, attentions=any(each.maps for each in kept), stack=stack)


def _groups(texts: Sequence[Encoded], lengths: Sequence[int], width: int) -> Groups:
    if texts[0].groups is None:
        return Groups.of_texts(lengths, width)
    return Groups.of_lists([[row * width + token for token in group] for row, text in enumerate(texts) for group in text.groups or ()])


def _pooling(runner: BaseModelRunner, asked: str) -> str:
    """What is asked; `auto` is what the model's makers do, and nothing where they say nothing."""
    if asked == "auto":
        own = runner.pooling or "none"
        return "cls" if own == "pooler" else own
    if asked not in POOLINGS:
        raise UsageError(f"unknown pooling '{asked}'", hint=did_you_mean(asked, POOLINGS) or f"known: auto, {', '.join(POOLINGS)}")
    return asked


def _stack(runner: BaseModelRunner, asked: str | None) -> str | None:
    """The stack that is recorded; None for all that there are."""
    if asked not in (None, "both", "encoder", "decoder"):
        raise UsageError(f"unknown stack '{asked}'", hint="encoder, decoder or both")
    return None if asked == "both" else asked
