"""Shards as numpy's .npz files: an array a tensor, the metadata as a text in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy
from torch import Tensor

from .arrays import to_array, to_tensor

_METADATA = "metadata"


def write(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write a shard to `path`."""
    arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
    with open(path, "wb") as file:
        numpy.savez(file, allow_pickle=False, **{_METADATA: numpy.array(json.dumps(dict(metadata)))}, **arrays)


def read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a shard, in memory."""
    with numpy.load(path, allow_pickle=False) as arrays:
        return {name: to_tensor(arrays[name]) for name in arrays.files if name != _METADATA}
