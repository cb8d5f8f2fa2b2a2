"""A checkpoint of random weights, written shard by shard as fast as the disk takes it: no more of it is in memory than one block."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..dtypes import TORCH_NAMES
from ..execution.model_class import model_class_and_config, own_dtype, refusals
from ..execution.skeleton import Skeleton, as_stored
from ..writing import replacing, write_all

_BLOCK = (8 << 20) + 9  # random numbers, a prime: no two of the next eight million rows of a matrix begin at the same one
_SPREAD = 0.02  # as models are initialised: sums over a hidden size stay finite in any dtype


@dataclass(frozen=True)
class Blueprint:
    """Every tensor of a checkpoint, by the name that it is stored under, with its shape; all of one dtype, cut into shards of a size."""

    config: Mapping[str, object]
    tensors: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype
    shard_bytes: int = 5_000_000_000  # at most, as on the hub

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(map(self.size, self.tensors))

    def size(self, name: str) -> int:
        """Bytes of one tensor."""
        return prod(self.tensors[name]) * self.dtype.itemsize

    def shards(self) -> Iterator[list[str]]:
        """The names, cut where a shard would become too large."""
        names: list[str] = []
        filled = 0
        for name in self.tensors:
            if names and filled + self.size(name) > self.shard_bytes:
                yield names
                names, filled = [], 0
            names.append(name)
            filled += self.size(name)
        yield names


def blueprint(config: Mapping[str, object]) -> Blueprint:
    """What transformers' class for `config` would store, ties once. Raises UsageError or InvalidCheckpointError where there is none."""
    model_class, built = model_class_and_config(config, None, folder=Path(), trust_remote_code=False)
    dtype = own_dtype(built, torch.float32)
    with refusals(model_class.__name__):
        model = Skeleton.build(model_class, built, dtype, device=torch.device("meta")).model
    tied = set(model.all_tied_weights_keys)
    stored = as_stored(model, {name: tensor for name, tensor in model.state_dict().items() if name not in tied})
    return Blueprint(config, {name: tuple(tensor.shape) for name, tensor in stored.items()}, dtype)


def write_checkpoint(made: Blueprint, folder: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write shards, index and config into `folder`. Weights are the same at every call, and all finite.

    `progress` hears of bytes that were written, and of how many there will be.
    """
    block = (torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)) * _SPREAD).to(made.dtype)
    shards = list(made.shards())
    names = _shard_names(len(shards))
    for file, tensors in zip(names, shards, strict=True):
        with replacing(folder / file) as descriptor:
            _write_shard(descriptor, made, tensors, _bytes(block), progress)
    if len(shards) > 1:
        weight_map = {tensor: file for file, tensors in zip(names, shards, strict=True) for tensor in tensors}
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": made.nbytes}, "weight_map": weight_map})
    _write_json(folder / "config.json", made.config)


def _shard_names(count: int) -> list[str]:
    return ["model.safetensors"] if count == 1 else [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _write_shard(
    descriptor: int, made: Blueprint, names: Sequence[str], block: memoryview, progress: Callable[[int, int], None] | None
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    dtype, end = TORCH_NAMES[str(made.dtype).removeprefix("torch.")], 0
    for name in names:
        start, end = end, end + made.size(name)
        header[name] = {"dtype": dtype, "shape": made.tensors[name], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_all(descriptor, len(text).to_bytes(8, "little") + text)
    place = 0
    for name in names:
        size = made.size(name)
        if len(made.tensors[name]) < 2:
            write_all(descriptor, _bytes(_vector(name, made)))
        else:
            place = _write_from(descriptor, block, place, size)
        if progress is not None:
            progress(size, made.nbytes)


def _vector(name: str, made: Blueprint) -> Tensor:
    """Scales of norms are one, biases zero: what a model computes stays of sensible size."""
    value = 1.0 if name.endswith("weight") else 0.0
    return torch.full(made.tensors[name], value, dtype=made.dtype)


def _write_from(descriptor: int, block: memoryview, place: int, size: int) -> int:
    """Write `size` bytes of the block, over and over, from `place` on; returns where it ended."""
    while size:
        part = block[place : place + size]
        write_all(descriptor, part)
        size -= len(part)
        place = (place + len(part)) % len(block)
    return place


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]  # an array is a buffer


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with replacing(path) as descriptor:
        write_all(descriptor, json.dumps(content, indent=2).encode() + b"\n")
