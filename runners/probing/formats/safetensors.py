"""Shards as safetensors files: what is computed is written straight into them, and reading maps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ....loader.execution.weight_files import WeightFiles
from ....loader.formats.safetensors import read_header
from ....loader.sources.local import LocalFile


def read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a shard: pages of the file, which nothing copies. Raises InvalidCheckpointError where it is not whole."""
    with LocalFile(path, path.name) as source:
        header = read_header(source)
    files = WeightFiles(path.parent)
    tensors = {entry.name: files.read(entry) for entry in header.tensors}
    files.close()
    return tensors
