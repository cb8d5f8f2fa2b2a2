"""How a reader refuses a file: each error names the file and the tensor, and the usual impostors are told by their first bytes."""

from __future__ import annotations

from typing import NoReturn

from ..errors import InvalidCheckpointError
from ..sources import ByteSource

# First bytes, what they are, and the way out.
_IMPOSTORS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"version https://git-lfs",), "a Git LFS pointer, not the file itself", "run `git lfs pull` in the folder"),
    (
        (b"<!doctype", b"<html", b"<?xml", b"<head"),
        "an HTML page, not the file itself",
        "download it again; a login or error page was saved",
    ),
    ((b"gguf",), "a GGUF file", "name it .gguf"),
    ((b"pk\x03\x04", b"pk\x05\x06"), "a zip archive (PyTorch's .bin format?)", "name it .bin if PyTorch saved it"),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "a Python pickle", "convert it to safetensors"),
    ((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"bzh", b"\xfd7zxz"), "a compressed file", "decompress it first"),
    ((b"\x89hdf",), "an HDF5 file (TensorFlow or Keras weights)", "convert it to safetensors"),
)


def refuse(source: ByteSource, message: str, *, hint: str | None = None) -> NoReturn:
    """Raise InvalidCheckpointError about the whole of `source`."""
    raise InvalidCheckpointError(message, file=source.name, hint=hint)


def refuse_tensor(file: str, name: str, message: str, *, hint: str | None = None) -> NoReturn:
    """Raise InvalidCheckpointError about the tensor `name` in `file`."""
    raise InvalidCheckpointError(message, file=file, tensor=name, hint=hint)


def refuse_impostor(source: ByteSource, *, expected: str) -> None:
    """Raise InvalidCheckpointError, with the way out, if `source` is empty or known to be something else than `expected`."""
    if source.size == 0:
        refuse(source, "the file is empty", hint="download it again")
    head = source.read(0, 64)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for signatures, what, way_out in _IMPOSTORS:
        if start.startswith(signatures):
            refuse(source, f"not a {expected} file: it is {what}", hint=way_out)
    if not any(head):
        refuse(source, f"not a {expected} file: it begins with zeros", hint="the download broke off; fetch it again")
