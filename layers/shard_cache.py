"""Headers of shards in a file of the user's choice: read from there while the shards are unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path

from ..loader.dtypes import BITS
from ..loader.errors import InvalidCheckpointError, NotFoundError
from ..loader.execution.checked_file import write_all
from ..loader.formats import Format
from ..loader.sources import ByteSource
from ..loader.sources.local import LocalFile, read_small
from ..loader.strict_json import parse_object
from ..loader.tensors import FileHeader, TensorEntry
from ..loader.writing import replacing

SCHEMA = "mlload.shards/1"
_MAX_BYTES = 100_000_000


class ShardCache:
    """The headers in `path`; each counts for the very file that it was read from, told by size, times and inode.

    What is no such file, or can't be written, is as if there was none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._is_new = False

    def read_header(self, kind: Format, file: ByteSource) -> FileHeader:
        """The header of a shard. Raises InvalidCheckpointError for a file that is not what it claims to be."""
        identity = list(file.identity) if isinstance(file, LocalFile) else None
        known = self._known.get(file.name)
        if identity is not None and isinstance(known, dict) and known.get("identity") == identity:
            header = _header(known, file)
            if header is not None:
                return header
        header = kind.read_header(file)
        if identity is not None and kind.name == "safetensors":
            rows = [[entry.name, entry.dtype, list(entry.shape), entry.offset, entry.nbytes] for entry in header.tensors]
            self._known[file.name] = {
                "identity": identity,
                "header_bytes": header.header_bytes,
                "metadata": header.metadata,
                "tensors": rows,
            }
            self._is_new = True
        return header

    def save(self) -> None:
        """Write what is new, whole or not at all."""
        if self._is_new:
            content = json.dumps({"schema": SCHEMA, "shards": self._known}, separators=(",", ":")).encode()
            with suppress(OSError), replacing(self._path) as descriptor:
                write_all(descriptor, memoryview(content))


def _read(path: Path) -> dict[str, object]:
    try:
        content = parse_object(read_small(path, path.name, limit=_MAX_BYTES), file=path.name)
    except (InvalidCheckpointError, NotFoundError):
        return {}
    shards = content.get("shards")
    return shards if content.get("schema") == SCHEMA and isinstance(shards, dict) else {}


def _header(known: Mapping[str, object], file: ByteSource) -> FileHeader | None:
    """The header that was kept; None where a line of it can't be one of the file's."""
    match known:
        case {"header_bytes": int(header_bytes), "metadata": dict(metadata), "tensors": list(rows)}:
            entries = [_entry(row, file) for row in rows]
            return None if None in entries else FileHeader(tuple(filter(None, entries)), metadata, header_bytes)
        case _:
            return None


def _entry(row: object, file: ByteSource) -> TensorEntry | None:
    match row:
        case [str(name), str(dtype), list(shape), int(offset), int(nbytes)] if dtype in BITS:
            are_sizes = all(type(size) is int and size >= 0 for size in shape)
            if are_sizes and 0 <= offset <= offset + nbytes <= file.size and prod(shape) * BITS[dtype] == 8 * nbytes:
                return TensorEntry(name, dtype, tuple(shape), file.name, offset, nbytes)
    return None
