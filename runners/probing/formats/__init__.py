"""What an answer is written as: each module writes one format's shards, from the finished tensors of one shard.

A new format is one module with a `write` and a `read`, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ....loader.errors import MissingDependencyError, UsageError
from ....loader.text import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    Read = Callable[[Path], Mapping[str, Tensor]]
    Write = Callable[[Mapping[str, Tensor], Mapping[str, str], Path], None]


@dataclass(frozen=True)
class Format:
    """A format: how its shards' names end, its module, and the package and the extra that it needs beside torch."""

    name: str
    summary: str
    suffix: str
    module: str
    package: str | None = None

    def reader(self) -> Read:
        """What reads a shard: its tensors by name, zero-copy where the format allows it."""
        return self._module().read

    def writer(self) -> Write | None:
        """What writes a shard, of its tensors by name and its metadata, to a path where nothing is; None for what shards are already."""
        return getattr(self._module(), "write", None)

    def _module(self) -> ModuleType:
        if self.package is not None and find_spec(self.package) is None:
            raise MissingDependencyError(f"{self.name} needs {self.package}", hint=f'pip install "mlload[{self.name}]"')
        return import_module(self.module, __package__)


FORMATS: Mapping[str, Format] = {
    line.name: line
    for line in (
        Format("safetensors", "a tensor a layer, mapped when it is read", ".safetensors", ".safetensors"),
        Format("parquet", "a row a text, a column a layer", ".parquet", ".parquet", package="pyarrow"),
        Format("npz", "numpy's arrays", ".npz", ".npz"),
        Format("zarr", "arrays in compressed chunks, a folder a shard", ".zarr", ".zarr", package="zarr"),
    )
}


def find_format(name: str) -> Format:
    """The format of that name. Raises UsageError for an unknown one."""
    if name not in FORMATS:
        raise UsageError(f"unknown format '{name}'", hint=did_you_mean(name, FORMATS) or f"known: {', '.join(FORMATS)}")
    return FORMATS[name]
