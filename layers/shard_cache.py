"""Headers of shards in a file of the user's choice: read from there while the shards are unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path

from ..loader.dtypes import BITS
from ..loader.errors import InvalidCheckpointError, UsageError
from ..loader.formats import Format
from ..loader.sources import ByteSource
from ..loader.sources.local import LocalFile, read_small
from ..loader.strict_json import parse_object
from ..loader.tensors import FileHeader, TensorEntry
from ..loader.writing import replacing, write_all

SCHEMA = "mlload.shards/1"
_MAX_BYTES = 100_000_000


class ShardCache:
    """The headers in `path`; each counts for the very file that it was read from, told by size, times and inode.

    Where it can't be written it is done without. Raises UsageError for a file that is something else, which is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path) if os.path.lexists(path) else {}
        self._used: dict[str, object] = {}

    def read_header(self, kind: Format, file: ByteSource) -> FileHeader:
        """The header of a shard. Raises InvalidCheckpointError for a file that is not what it claims to be."""
        if kind.name != "safetensors" or not isinstance(file, LocalFile):
            return kind.read_header(file)
        known = self._known.get(file.name)
        header = None
        if isinstance(known, dict) and known.get("identity") == list(file.identity):
            header = _header(known, file)
        if header is None:
            header = kind.read_header(file)
            known = _line(header, file)
        self._used[file.name] = known
        return header

    def save(self) -> None:
        """Write what is new, whole or not at all."""
        if self._used != self._known:
            content = json.dumps({"schema": SCHEMA, "shards": self._used}, separators=(",", ":")).encode()
            with suppress(OSError), replacing(self._path) as descriptor:
                write_all(descriptor, content)


def _read(path: Path) -> Mapping[str, object]:
    """What the file knows; nothing where it is empty, or of another version of mlload."""
    try:
        text = read_small(path, path.name, limit=_MAX_BYTES)
        content = parse_object(text, file=path.name) if text else {"schema": SCHEMA}
    except InvalidCheckpointError:
        content = {}
    schema, shards = content.get("schema"), content.get("shards")
    if not isinstance(schema, str) or not schema.startswith(SCHEMA.partition("/")[0]):
        raise UsageError(f"{path} is no cache of shards that mlload wrote", hint="name a file that is not there yet")
    return shards if schema == SCHEMA and isinstance(shards, dict) else {}


def _line(header: FileHeader, file: LocalFile) -> dict[str, object]:
    rows = [[entry.name, entry.dtype, list(entry.shape), entry.offset, entry.nbytes] for entry in header.tensors]
    return {"identity": list(file.identity), "header_bytes": header.header_bytes, "metadata": dict(header.metadata), "tensors": rows}


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
