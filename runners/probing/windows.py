"""A corpus in windows of neighbouring texts, and a window in batches of texts of like length: each window is one shard of the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .texts import Example


@dataclass(frozen=True)
class Window:
    """Texts that are computed together and written to one shard: from the `first` of the corpus on."""

    number: int
    first: int
    examples: tuple[Example, ...]

    @property
    def digest(self) -> str:
        """What tells these texts from any others."""
        content = hashlib.sha256()
        for example in self.examples:
            text = example.text.encode("utf-8", "surrogatepass")
            content.update(f"{len(text)} {example.span} ".encode() + text)
        return content.hexdigest()


def windows(examples: Iterable[Example], *, most_texts: int, most_characters: int) -> Iterator[Window]:
    """Cut a corpus, never with more in memory than one window; a text longer than `most_characters` has one of its own."""
    number, first, held, characters = 0, 0, [], 0
    for example in examples:
        if held and (len(held) == most_texts or characters + len(example.text) > most_characters):
            yield Window(number, first, tuple(held))
            number, first, held, characters = number + 1, first + len(held), [], 0
        held.append(example)
        characters += len(example.text)
    if held:
        yield Window(number, first, tuple(held))


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Texts by their numbers, longest first, so that no batch takes more than `budget` tokens, padding counted; empty ones are left out."""
    made: list[list[int]] = []
    width = 0
    for number in sorted((number for number, length in enumerate(lengths) if length), key=lambda number: (-lengths[number], number)):
        if not made or (len(made[-1]) + 1) * width > budget:
            made.append([])
            width = lengths[number]
        made[-1].append(number)
    return made
