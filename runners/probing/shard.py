"""One shard of an answer: where every row lies in its file is known before the first is computed, so each is written as it comes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...loader.dtypes import TORCH_NAMES
from .encoding import Encoded

if TYPE_CHECKING:
    from .record import Kept, Recorder

_ALIGNMENT = 8


@dataclass(frozen=True)
class Shape:
    """A tensor of a shard."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """A shard as a safetensors file: its tensors one behind the other, those of even sizes first, so that states can be mapped."""

    tensors: tuple[Shape, ...]
    metadata: Mapping[str, str]

    @cached_property
    def header(self) -> bytes:
        """All bytes before the first tensor's."""
        table: dict[str, object] = {"__metadata__": dict(self.metadata)}
        for tensor in self.tensors:
            start = self._places[tensor.name]
            dtype = TORCH_NAMES[str(tensor.dtype).removeprefix("torch.")]
            table[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, start + tensor.nbytes]}
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def place(self, name: str) -> int:
        """Where the bytes of a tensor begin in the file."""
        return len(self.header) + self._places[name]

    @cached_property
    def _places(self) -> Mapping[str, int]:
        ends = accumulate((tensor.nbytes for tensor in self.tensors), initial=0)
        return dict(zip((tensor.name for tensor in self.tensors), ends, strict=False))


class ShardPlan:
    """Where the rows of each text of a window go. `bytes_of` gives what is known beforehand, `pieces_of` what a batch brings."""

    def __init__(self, recorder: Recorder, texts: Sequence[Encoded], metadata: Mapping[str, str]) -> None:
        self._recorder = recorder
        self._texts = texts
        self._rows = [0, *accumulate(recorder.rows_of(text) for text in texts)]
        self._squares = [0, *accumulate(len(text.ids) ** 2 for text in texts)]
        self.known = dict(self._known())
        known = [Shape(name, tuple(tensor.shape), tensor.dtype) for name, tensor in self.known.items()]
        states = [self._shape(kept) for kept in recorder.kept if kept.maps is None]
        maps = [self._shape(kept) for kept in recorder.kept if kept.maps is not None]
        self.layout = Layout((known[0], *states, *known[1:], *maps), metadata)

    @property
    def rows(self) -> int:
        """Rows of every layer."""
        return self._rows[-1]

    def known_pieces(self) -> Iterator[tuple[int, Tensor]]:
        """What is known before anything is computed, and the rows of texts without a token, with its place in the file."""
        for name, tensor in self.known.items():
            yield self.layout.place(name), tensor
        for number, text in enumerate(self._texts):
            for kept in self._recorder.kept if not text.ids and self._rows[number + 1] > self._rows[number] else ():
                if kept.maps is None:
                    yield self._place(kept, number), torch.full((kept.width,), float("nan"), dtype=self._recorder.rows_dtype)

    def pieces(self, kept: Kept, numbers: Sequence[int], made: Tensor | list[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """What a batch of the texts `numbers` gave for a layer, each text's part with its place in the file."""
        if isinstance(made, list):
            yield from ((self._place(kept, number), part) for number, part in zip(numbers, made, strict=True))
            return
        parts = made.split([self._rows[number + 1] - self._rows[number] for number in numbers])
        yield from ((self._place(kept, number), part) for number, part in zip(numbers, parts, strict=True))

    def _place(self, kept: Kept, number: int) -> int:
        before = self._rows[number] if kept.maps is None else self._squares[number]
        return self.layout.place(kept.name) + before * kept.width * self._dtype(kept).itemsize

    def _known(self) -> Iterator[tuple[str, Tensor]]:
        """Offsets of the texts' rows, their tokens, and which token (or characters) a row stands for where it stands for one."""
        yield "offsets", torch.tensor(self._rows, dtype=torch.int64)
        yield "lengths", torch.tensor([len(text.ids) for text in self._texts], dtype=torch.int32)
        single = self._recorder.pool == "none"
        if any(kept.maps for kept in self._recorder.kept) or (single and all(text.groups is None for text in self._texts)):
            yield "input_ids", torch.tensor([token for text in self._texts for token in text.ids], dtype=torch.int32)
        if any(text.groups is not None for text in self._texts):
            spans = [
                span
                for text in self._texts
                for span, group in zip(text.spans, text.groups or (), strict=True)
                for _ in (group if single else (0,))
            ]
            yield "spans", torch.tensor(spans, dtype=torch.int32).reshape(-1, 2)

    def _shape(self, kept: Kept) -> Shape:
        if kept.maps is None:
            return Shape(kept.name, (self.rows, kept.width), self._dtype(kept))
        return Shape(kept.name, (self._squares[-1] * kept.width,), self._dtype(kept))

    def _dtype(self, kept: Kept) -> torch.dtype:
        return self._recorder.rows_dtype if kept.maps is None else self._recorder.dtype


def write_at(descriptor: int, place: int, tensor: Tensor) -> None:
    """Write the elements of `tensor` to `place` in a file."""
    if not tensor.numel():
        return
    left = memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]  # an array is a buffer
    while left:
        done = os.pwrite(descriptor, left, place)
        left, place = left[done:], place + done
