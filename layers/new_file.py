"""Files that are written once: never over another one, never among a model's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from ..loader.errors import MlloadError, UsageError
from ..loader.execution.checked_file import write_checked
from ..loader.writing import replacing, write_all


def check_new(path: Path, *, model_folder: Path | None = None) -> None:
    """Raises UsageError if something lies at `path` already, or if it is in the folder of a model."""
    if os.path.lexists(path):
        raise UsageError(f"{path} exists already", hint="name a file that does not")
    if model_folder is not None and path.parent.resolve() == model_folder.resolve():
        raise UsageError(f"{path} would lie among the files of the model", hint="name another folder")


def write_new_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a new file, as `write_new` does."""
    check_new(path)
    with _explained(path), replacing(path) as descriptor:
        write_all(descriptor, memoryview(content))


def write_new(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that is there whole or not at all. Raises UsageError if something lies there already."""
    check_new(path)
    with _explained(path):
        write_checked(path, metadata, tensors)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise MlloadError(f"{path}: can't be written: {error.strerror}") from None
