"""Shards as zarr groups: an array a tensor, in chunks of rows, the metadata as attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy
import zarr
from torch import Tensor

from .arrays import to_array, to_tensor

_CHUNK_BYTES = 1 << 22


def write(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write a shard to `path`, a folder."""
    group = zarr.open_group(path, mode="w")
    group.attrs.update(dict(metadata))
    for name, tensor in tensors.items():
        array = to_array(tensor)
        row = max(array[:1].nbytes, 1)
        rows = min(max(len(array), 1), max(1, _CHUNK_BYTES // row))
        group.create_array(name, data=array, chunks=(rows, *array.shape[1:]))


def read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a shard, in memory."""
    group = zarr.open_group(path, mode="r")
    return {name: to_tensor(numpy.asarray(array[:])) for name, array in group.arrays()}
