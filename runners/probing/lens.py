"""The logit lens on the texts of a probe: what the model would say after each of its layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...layers.layered import LayeredModel
from ...layers.lens import LensLine, logit_lens
from ...layers.partial import partial_forward
from ...loader.errors import UsageError
from ..base import BaseModelRunner
from .texts import Example

_MOST_TEXTS = 64


@dataclass(frozen=True)
class LensReport:
    """The texts, and a line for each layer and each place that a text leaves open: its end, or a mask."""

    texts: tuple[str, ...]
    lines: tuple[LensLine, ...]


def lens_texts(texts: str | Iterable[str | Example]) -> list[str]:
    """The texts that are looked at. Raises UsageError for a corpus."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, list | tuple) or len(texts) > _MOST_TEXTS:
        raise UsageError(f"the logit lens looks at {_MOST_TEXTS} texts at most, one by one", hint='give them by --text "..."')
    return [text if isinstance(text, str) else text.text for text in texts]


def look_through(runner: BaseModelRunner, texts: list[str], *, count: int = 3) -> LensReport:
    """The `count` likeliest tokens after every layer, from the head that the checkpoint holds. Raises UsageError where it has none."""
    model = LayeredModel(replace(runner.settings, head=runner.head))
    if model.model.get_output_embeddings() is None:
        raise UsageError(f"{type(model.model).__name__} has no head over a vocabulary", hint="leave --logit-lens out")
    part = partial_forward(model, texts, layers=f":{len(model.main.layers)}", hidden_states=True)
    return LensReport(tuple(texts), logit_lens(model, part, count=count))
