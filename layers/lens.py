"""The logit lens: what a model would say if its layers ended here, after every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from ..loader.errors import UsageError
from .hidden import with_hidden
from .layered import LayeredModel
from .partial import PartialForward
from .top_tokens import Candidate, candidates, open_positions, token_texts


@dataclass(frozen=True, slots=True)
class LensLine:
    """The likeliest tokens after `layer` layers, 0 being the embedding, for one position of one prompt."""

    layer: int
    prompt: int
    position: int
    tokens: tuple[Candidate, ...]


def logit_lens(model: LayeredModel, part: PartialForward, *, count: int = 5, everywhere: bool = False) -> tuple[LensLine, ...]:
    """The `count` likeliest tokens after every layer of `part`, which stopped after the last layer and kept its hidden states.

    The model's own final norm and head make logits of each. They are looked at where a prompt leaves a token open, or `everywhere`.
    """
    if part.state is None or part.last != part.num_layers or part.stack != model.main.name or not part.hidden_states:
        raise UsageError("the lens looks at what the last layers of the main stack hand on", hint="run layers 0: for it")
    return tuple(_lines(model, part, count=count, everywhere=everywhere))


def _lines(model: LayeredModel, part: PartialForward, *, count: int, everywhere: bool) -> Iterator[LensLine]:
    text_of = token_texts(model.loaded)
    places = list(open_positions(part.inputs, model.loaded))
    for layer, hidden in sorted(part.hidden_states.items()):
        logits = _said(model, part, hidden, last_logits=not everywhere)
        if everywhere:
            places = [(prompt, position) for prompt in range(logits.shape[0]) for position in range(logits.shape[1])]
        for prompt, position in places:
            tokens = candidates(logits[prompt, min(position, logits.shape[1] - 1)], text_of, count=count)
            yield LensLine(layer, prompt, position, tokens)


def _said(model: LayeredModel, part: PartialForward, hidden: Tensor, *, last_logits: bool) -> Tensor:
    """Logits, had the last layer handed on `hidden`."""
    assert part.state is not None
    boundary = part.state.boundary
    outputs = list(boundary.outputs[part.stack])
    outputs[-1] = with_hidden(outputs[-1], hidden)
    changed = replace(boundary, outputs={**boundary.outputs, part.stack: outputs})
    result = model.run(model.for_last_token(part.inputs) if last_logits else part.inputs, start=changed).result
    assert result is not None
    return result
