"""An answer read again: the rows of every text in every layer, mapped from the shards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...loader.errors import InvalidCheckpointError, UsageError
from ...loader.text import did_you_mean
from .folder import ShardLine, read_index
from .formats import find_format

if TYPE_CHECKING:
    from torch import Tensor


def open_probe(folder: str | PathLike[str]) -> Probe:
    """What `probe_layers` wrote to a folder. Nothing is read before it is used.

    Raises UsageError where there is no answer that is whole, InvalidCheckpointError where a file of it is broken.
    """
    return Probe(Path(folder))


class Probe:
    """The answer for a corpus: `probe[6]` are the states of layer 6 (of a seq2seq model `probe["encoder.layer.6"]`), text by text.

    `index` is everything that is known of the answer: model, revision, settings, versions, and a line for each layer and each shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: Mapping[str, Any] = read_index(folder)
        self._lines = [ShardLine.from_json(line) for line in self.index["shards"]]
        self._read = find_format(self.index["format"]).reader()
        self._shards: dict[int, Mapping[str, Tensor]] = {}

    def __len__(self) -> int:
        return int(self.index["texts"])

    def __repr__(self) -> str:
        return f"Probe({len(self):,} texts of {self.index['model']}: {', '.join(self.names)})"

    @property
    def names(self) -> list[str]:
        """What is kept of every text, by the names that `[]` takes."""
        return list(self.index["kept"])

    def __getitem__(self, layer: int | str) -> LayerStates:
        name = f"layer.{layer}" if isinstance(layer, int) else layer
        if name not in self.names:
            hint = did_you_mean(str(name), self.names) or f"it holds {', '.join(self.names)}"
            raise UsageError(f"{self.folder} holds no '{name}'", hint=hint)
        return LayerStates(self, name)

    @cached_property
    def lengths(self) -> Tensor:
        """How many tokens each text has."""
        return self._joined("lengths")

    @cached_property
    def input_ids(self) -> Tensor:
        """The tokens of all texts, one text after the other, where every token's states are kept."""
        return self._joined("input_ids")

    @cached_property
    def spans(self) -> Tensor:
        """The characters of its text that each row stands for, where tokens were chosen."""
        return self._joined("spans")

    def place(self, text: int) -> tuple[Mapping[str, Tensor], int]:
        """The shard that holds a text, and the text's number in it. Raises IndexError where there is none."""
        number = text + len(self) if text < 0 else text
        if not 0 <= number < len(self):
            raise IndexError(f"text {text} of {len(self)}")
        shard = bisect_right([line.first for line in self._lines], number) - 1
        return self.shard(shard), number - self._lines[shard].first

    def shard(self, number: int) -> Mapping[str, Tensor]:
        """All tensors of a shard, by name."""
        if number not in self._shards:
            line = self._lines[number]
            tensors = self._read(self.folder / line.file)
            if tensors["offsets"].shape[0] != line.texts + 1 or int(tensors["offsets"][-1]) != line.rows:
                raise InvalidCheckpointError("is not the shard that the index tells of", file=line.file, hint="make the answer again")
            self._shards[number] = tensors
        return self._shards[number]

    @property
    def shards(self) -> Iterator[Mapping[str, Tensor]]:
        """The shards one after the other."""
        return (self.shard(number) for number in range(len(self._lines)))

    def _joined(self, name: str) -> Tensor:
        import torch

        if any(name not in shard for shard in self.shards):
            raise UsageError(f"{self.folder} holds no {name}")
        return torch.cat([shard[name] for shard in self.shards])


class LayerStates:
    """One layer's states, or attention maps. `states[7]` are those of text 7: [rows, width], for pooled ones [width], for maps
    [heads, tokens, tokens]. Nothing is copied."""

    def __init__(self, probe: Probe, name: str) -> None:
        self._probe = probe
        self.name = name
        self._is_pooled = probe.index["pooling"] != "none" and probe.index["tokens"] is None

    def __len__(self) -> int:
        return len(self._probe)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, text: int) -> Tensor:
        shard, number = self._probe.place(text)
        tensor = shard[self.name]
        if tensor.dim() == 1:
            return self._maps(shard, number)
        rows = tensor[int(shard["offsets"][number]) : int(shard["offsets"][number + 1])]
        return rows[0] if self._is_pooled else rows

    @property
    def parts(self) -> list[Tensor]:
        """All rows, a tensor for each shard."""
        return [shard[self.name] for shard in self._probe.shards]

    def tensor(self) -> Tensor:
        """All rows in one tensor: the shard's own where there is one shard, else a copy of all."""
        import torch

        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)

    def _maps(self, shard: Mapping[str, Tensor], number: int) -> Tensor:
        lengths = shard["lengths"].long()
        squares, tokens = lengths.square(), int(lengths[number])
        heads = shard[self.name].numel() // max(int(squares.sum()), 1)
        start = int(squares[:number].sum()) * heads
        return shard[self.name][start : start + heads * tokens * tokens].view(heads, tokens, tokens)
