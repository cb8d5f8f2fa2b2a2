"""Weight file formats: each module reads one format's header into a tensor table, without the weights.

A new format is one module with `read_header(source)`, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from ..sources import ByteSource
from ..tensors import FileHeader


@dataclass(frozen=True, slots=True)
class Format:
    """A weights file format: how its files end, and where its header's reader is (`module:attribute`)."""

    name: str
    summary: str
    suffixes: tuple[str, ...]
    reader: str

    def read_header(self, source: ByteSource) -> FileHeader:
        """The tensor table of `source`. Raises InvalidCheckpointError where it is not a whole, well-formed file of this format."""
        module, attribute = self.reader.split(":")
        reader = cast("Callable[[ByteSource], FileHeader]", getattr(import_module(module, __package__), attribute))
        return reader(source)


FORMATS: Mapping[str, Format] = {
    line.name: line
    for line in (
        Format("safetensors", "JSON header, then the tensors' bytes", (".safetensors",), ".safetensors:read_header"),
        Format("gguf", "llama.cpp's format, quantized in blocks", (".gguf",), ".gguf:read_header"),
        Format(
            "pytorch", "zip of a pickle and its storages; the pickle is never executed", (".bin", ".pth", ".pt"), ".pytorch:read_header"
        ),
    )
}


def format_of(file: str) -> Format | None:
    """The format that a file's name claims, or None for a name that claims none."""
    return next((line for line in FORMATS.values() if file.endswith(line.suffixes)), None)
