"""Safetensors files of our own: tensors where they can be mapped, a checksum over every byte, there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

try:
    from isal.isal_zlib import crc32  # the same number, five times sooner
except ImportError:
    from zlib import crc32

import torch
from torch import Tensor

from ..dtypes import TORCH_NAMES
from ..sources.local import Identity, LocalFile, identity_of
from ..tensors import FileHeader
from ..writing import replacing, write_past_cache

_ALIGNMENT = 64  # bytes
_CHUNK = 1 << 20
_UNKNOWN_CRC = '"crc32":"00000000"'


def write_checked(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Identity | None:
    """A safetensors file whose tensors lie where they can be mapped, with a checksum of all of it; None if it was replaced already."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    names = sorted(stored, key=lambda name: (-_alignment(stored[name].nbytes), name))
    header: dict[str, object] = {"__metadata__": {**metadata, "crc32": "0" * 8}}
    end = 0
    for name in names:
        start, end = end, end + stored[name].nbytes
        dtype = TORCH_NAMES[str(stored[name].dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(stored[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    contents = [memoryview(stored[name].reshape(-1).view(torch.uint8).numpy()) for name in names]  # pyright: ignore[reportArgumentType]
    crc = crc32(text)
    for content in contents:
        crc = crc32(content, crc)
    text = text.replace(_UNKNOWN_CRC.encode(), _crc_text(crc), 1)
    with replacing(path) as descriptor:
        write_past_cache(descriptor, (memoryview(len(text).to_bytes(8, "little") + text), *contents))
        written = identity_of(os.fstat(descriptor))
    there = identity_of(os.stat(path))
    return there if [*there[:2], there[3]] == [*written[:2], written[3]] else None  # renaming leaves all but the third as it was


def checksum(file: LocalFile, header: FileHeader) -> str:
    """What the `crc32` in its metadata has to be: of header and data as they were before that was put in."""
    known = f'"crc32":"{header.metadata.get("crc32")}"'.encode()
    crc = crc32(file.read(8, header.header_bytes - 8).replace(known, _UNKNOWN_CRC.encode(), 1))
    for start in range(header.header_bytes, file.size, _CHUNK):
        crc = crc32(file.read(start, _CHUNK), crc)
    return f"{crc:08x}"


def _alignment(nbytes: int) -> int:
    """The largest power of two that divides a size: tensors in this order each begin where their own dtype may."""
    return min(nbytes & -nbytes, _ALIGNMENT) or _ALIGNMENT


def _crc_text(crc: int) -> bytes:
    return f'"crc32":"{crc:08x}"'.encode()
