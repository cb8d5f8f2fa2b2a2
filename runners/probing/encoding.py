"""Texts as the model reads them: ids, what was cut off, and the tokens that are asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...loader.errors import UsageError
from ...loader.text import printable
from ..base import BaseModelRunner
from .texts import Example

_WORD = re.compile(r"\w+")
_RANGE = re.compile(r"(\d{1,9}):(\d{1,9})")

Span = tuple[int, int]


@dataclass(frozen=True)
class TokenChoice:
    """Which tokens of a text are kept: those of every word, of every occurrence of one word, or of a range of characters.

    Written `words`, `word:bank`, `3:9`, and `span` for the range that each example brings itself.
    """

    asked: str

    def __post_init__(self) -> None:
        """Raises UsageError for what is none of these."""
        if self.asked not in ("words", "span") and not self.asked.startswith("word:") and not _RANGE.fullmatch(self.asked):
            hint = "write words, word:bank, 3:9 (characters), or span with a file that has a column of them"
            raise UsageError(f"'{printable(self.asked, limit=40)}' names no tokens", hint=hint)

    def spans(self, example: Example) -> list[Span]:
        """The ranges of characters that are meant, each one a group of tokens."""
        if self.asked == "words":
            return [found.span() for found in _WORD.finditer(example.text)]
        if self.asked.startswith("word:"):
            word = self.asked.removeprefix("word:")
            return [found.span() for found in _WORD.finditer(example.text) if found.group() == word]
        if self.asked == "span":
            if example.span is None:
                raise UsageError("the texts bring no spans", hint="--span-column names the column that holds them")
            return [example.span]
        first, last = self.asked.split(":")
        return [(int(first), int(last))]


@dataclass(frozen=True)
class Encoded:
    """One text: its ids, the groups of tokens that are asked for with their characters (None for all together), tokens cut off."""

    ids: Sequence[int]
    types: Sequence[int] | None
    groups: Sequence[Sequence[int]] | None
    spans: Sequence[Span]
    dropped: int


def encode(runner: BaseModelRunner, examples: Sequence[Example], tokens: TokenChoice | None, max_length: int | None) -> list[Encoded]:
    """Every text as the model reads it. Raises UsageError where tokens are asked for and the tokenizer can't say where they stand."""
    texts = [example.text for example in examples]
    if tokens is not None and not runner.tokenizer.is_fast:
        raise UsageError(f"{type(runner.tokenizer).__name__} does not tell where tokens stand in a text", hint="leave --tokens out")
    batch: Any = runner.tokenizer(
        texts, truncation=max_length is not None, max_length=max_length, return_offsets_mapping=tokens is not None, verbose=False
    )
    dropped = _dropped(runner, texts, batch["input_ids"], max_length)
    types = batch.get("token_type_ids") or [None] * len(texts)
    encoded: list[Encoded] = []
    for number, (example, ids) in enumerate(zip(examples, batch["input_ids"], strict=True)):
        spans = [] if tokens is None else tokens.spans(example)
        groups = [_tokens_in(span, batch["offset_mapping"][number]) for span in spans]
        there = [number for number, group in enumerate(groups) if group]
        kept = None if tokens is None else [groups[number] for number in there]
        encoded.append(Encoded(ids, types[number], kept, [spans[number] for number in there], dropped[number]))
    return encoded


def padded(runner: BaseModelRunner, texts: Sequence[Encoded]) -> dict[str, Tensor]:
    """The model's inputs for one batch, padded on the right."""
    width = max(len(text.ids) for text in texts)
    ids = torch.full((len(texts), width), int(runner.tokenizer.pad_token_id))  # pyright: ignore[reportArgumentType]  # it has one
    mask = torch.zeros_like(ids)
    types = torch.full_like(ids, runner.tokenizer.pad_token_type_id)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        mask[row, : len(text.ids)] = 1
        if text.types is not None:
            types[row, : len(text.ids)] = torch.tensor(text.types)
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs if texts[0].types is None else {**inputs, "token_type_ids": types}


def _tokens_in(span: Span, offsets: Sequence[Span]) -> list[int]:
    """The tokens that share a character with `span`."""
    return [number for number, (first, last) in enumerate(offsets) if first < span[1] and last > span[0] and last > first]


def _dropped(runner: BaseModelRunner, texts: Sequence[str], ids: Sequence[Sequence[int]], max_length: int | None) -> list[int]:
    """How many tokens of each text were cut off; only those that fill the limit can have lost any."""
    full = [number for number, each in enumerate(ids) if len(each) == max_length]
    whole: Any = runner.tokenizer([texts[number] for number in full], verbose=False)["input_ids"] if full else []
    lost = {number: len(each) - len(ids[number]) for number, each in zip(full, whole, strict=True)}
    return [lost.get(number, 0) for number in range(len(texts))]
