"""The GGUF header, read as strictly as the safetensors one.

Format (versions 2 and 3, little-endian): `GGUF`, version, number of tensors, number of metadata pairs, the pairs, one record a
tensor, padding, then the tensors' bytes, each tensor beginning at a multiple of `general.alignment`
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import NoReturn

from ..dtypes import GGUF_TYPES
from ..sources import ByteSource
from ..tensors import FileHeader, TensorEntry
from .refusal import refuse, refuse_impostor, refuse_tensor

MAX_HEADER_BYTES = 100_000_000  # the largest vocabularies take some 15 MB
MAX_TENSORS = 100_000  # all experts of a layer are one tensor here: the largest models have some 2,000
MAX_PAIRS = 10_000
_MAX_NAME_BYTES = 1_024  # ggml itself stops at 64
_MAX_KEY_BYTES = 65_535
_MAX_TEXT_BYTES, _MAX_TEXTS_BYTES = 1 << 20, 1 << 24  # of one text and of all that are kept; chat templates have some 20 KB
_MAX_DIMENSIONS = 4
_MAX_DEPTH = 4  # of arrays in arrays
_MAX_ELEMENTS = 4_000_000  # strings in arrays, over the whole header; vocabularies and merges have under 1,000,000
_ARRAY_COST = 100  # an array in an array counts as so many of them
_MOST_LAYERS = 512  # that llama.cpp knows: a list of as many numbers is kept
_LONG_ARRAY = 64  # above this an array's values are skipped
_MAX_KEPT = 100_000  # array elements kept over the whole header
_MAX_SIZE = 2**63 - 1
_FIRST_CHUNK, _LAST_CHUNK = 1 << 18, 1 << 22

_U32, _U64 = Struct("<I"), Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
# Numbers of the format's enum gguf_metadata_value_type.
_SCALARS: dict[int, tuple[str, Struct]] = {
    0: ("UINT8", Struct("<B")),
    1: ("INT8", Struct("<b")),
    2: ("UINT16", Struct("<H")),
    3: ("INT16", Struct("<h")),
    4: ("UINT32", _U32),
    5: ("INT32", Struct("<i")),
    6: ("FLOAT32", Struct("<f")),
    _BOOL: ("BOOL", Struct("<B")),
    10: ("UINT64", _U64),
    11: ("INT64", Struct("<q")),
    12: ("FLOAT64", Struct("<d")),
}
_RECORDS = [Struct(f"<{count}QIQ") for count in range(_MAX_DIMENSIONS + 1)]  # of a tensor: dimensions, type, offset
_KIND_NAMES = {number: name for number, (name, _) in _SCALARS.items()} | {_STRING: "STRING", _ARRAY: "ARRAY"}


@dataclass(frozen=True, slots=True)
class LongArray:
    """Stands for an array (a vocabulary) too long to be kept, or for a text (kind `CHARACTER`): its elements' type and their number."""

    kind: str
    length: int


def read_header(source: ByteSource) -> FileHeader:
    """The tensor table and metadata of a GGUF file. Raises InvalidCheckpointError where the file breaks the format."""
    cursor, tensor_count, metadata = _beginning(source)
    alignment = _alignment(cursor, metadata)
    relative = [_entry(cursor, alignment) for _ in range(tensor_count)]
    data_start = padded(cursor.tell(), alignment) if relative else cursor.tell()
    tensors = [tensor._replace(offset=data_start + tensor.offset) for tensor in relative]
    _check_layout(tensors, source, data_start, alignment)
    return FileHeader(tuple(tensors), metadata, cursor.tell())


def read_prologue(source: ByteSource) -> tuple[bytes, int]:
    """All that stands before the tensor table, as bytes, and the alignment that the metadata in it ask for."""
    cursor, _, metadata = _beginning(source)
    return source.read(0, cursor.tell()), _alignment(cursor, metadata)


def _beginning(source: ByteSource) -> tuple[_Cursor, int, dict[str, object]]:
    """A cursor behind the metadata, the number of tensors, and the metadata."""
    cursor = _Cursor(source)
    _check_version(cursor)
    tensor_count, pair_count = cursor.number(_U64), cursor.number(_U64)
    if tensor_count > MAX_TENSORS:
        cursor.refuse(f"the header lists {tensor_count:,} tensors, more than {MAX_TENSORS:,}")
    if pair_count > MAX_PAIRS:
        cursor.refuse(f"the header lists {pair_count:,} metadata keys, more than {MAX_PAIRS:,}")
    return cursor, tensor_count, _metadata(cursor, pair_count)


def _check_version(cursor: _Cursor) -> None:
    source = cursor.source
    if source.read(0, 4) != b"GGUF":
        refuse_impostor(source, expected="GGUF")
        cursor.refuse("not a GGUF file: it does not begin with 'GGUF'")
    cursor.take(4)
    version = cursor.number(_U32)
    if version & 0xFFFF == 0 and version:
        cursor.refuse("the GGUF file is big-endian", hint="convert it with the gguf package: gguf-convert-endian FILE little")
    if version == 1:
        cursor.refuse("GGUF version 1 of August 2023 is not read", hint="download the model in a newer version, or convert it again")
    if version not in (2, 3):
        cursor.refuse(f"GGUF version {version} is not known; 2 and 3 are")


class _Cursor:
    """Reads forward through a source in growing chunks, never past its end nor past what a header may have."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.elements_left = _MAX_ELEMENTS
        self.kept_left = _MAX_KEPT
        self.text_left = _MAX_TEXTS_BYTES
        self._buffer = b""
        self._base = 0  # where in the file the buffer begins
        self._next = 0  # position in the buffer, beyond its end after a skip
        self._chunk = _FIRST_CHUNK

    def tell(self) -> int:
        return self._base + self._next

    def number(self, layout: Struct) -> int:
        if self._next + layout.size > len(self._buffer):
            self._fill(layout.size)
        value = layout.unpack_from(self._buffer, self._next)[0]
        self._next += layout.size
        return value

    def take(self, length: int) -> bytes:
        if self._next + length > len(self._buffer):
            self._fill(length)
        piece = self._buffer[self._next : self._next + length]
        self._next += length
        return piece

    def skip(self, length: int) -> None:
        self._next += length
        self._check(0)

    def skip_strings(self, count: int) -> None:
        # Half a million rounds for a vocabulary and its merges: everything in local names.
        length_at, buffer, position, last = _U64.unpack_from, self._buffer, self._next, len(self._buffer) - 8
        for _ in range(count):
            if position > last:
                self._next = position
                self._fill(8)
                buffer, position, last = self._buffer, self._next, len(self._buffer) - 8
            position += 8 + length_at(buffer, position)[0]
        self._next = position
        self._check(0)

    def _fill(self, need: int) -> None:
        """Move the buffer so that it begins here and holds at least `need` bytes."""
        self._check(need)
        here, rest = self.tell(), self._buffer[self._next :]
        wanted = min(max(need, self._chunk), self.source.size - here) - len(rest)
        self._buffer, self._base, self._next = rest + self.source.read(here + len(rest), wanted), here, 0
        self._chunk = min(2 * self._chunk, _LAST_CHUNK)
        if len(self._buffer) < need:
            self.refuse("the file shrank while it was read")

    def _check(self, need: int) -> None:
        end = self.tell() + need
        if end > self.source.size:
            self.refuse(f"the header goes on beyond the file's {self.source.size:,} bytes: it is cut short", hint="download it again")
        if end > MAX_HEADER_BYTES:
            self.refuse(f"the header has more than {MAX_HEADER_BYTES:,} bytes")

    def refuse(self, message: str, *, hint: str | None = None) -> NoReturn:
        refuse(self.source, message, hint=hint)


def _name(cursor: _Cursor, what: str, limit: int) -> str:
    length = cursor.number(_U64)
    if length > limit:
        cursor.refuse(f"a {what} has {length:,} bytes, more than {limit:,}")
    try:
        return cursor.take(length).decode()
    except UnicodeDecodeError:
        cursor.refuse(f"a {what} is not UTF-8")


def _metadata(cursor: _Cursor, count: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(count):
        key = _name(cursor, "metadata key", _MAX_KEY_BYTES)
        if key in metadata:
            cursor.refuse(f"the metadata key '{key}' stands twice")
        metadata[key] = _value(cursor, key, cursor.number(_U32), depth=0)
    return metadata


def _value(cursor: _Cursor, key: str, kind: int, *, depth: int) -> object:
    if kind in _SCALARS:
        number = cursor.number(_SCALARS[kind][1])
        return _boolean(cursor, key, number) if kind == _BOOL else number
    if kind == _STRING:
        return _text(cursor)
    if kind != _ARRAY:
        cursor.refuse(f"the metadata key '{key}' has the unknown type {kind}")
    if depth == _MAX_DEPTH:
        cursor.refuse(f"the metadata key '{key}' has arrays nested more than {_MAX_DEPTH} deep")
    return _array(cursor, key, depth)


def _boolean(cursor: _Cursor, key: str, number: int) -> bool:
    if number > 1:
        cursor.refuse(f"the metadata key '{key}' has the boolean {number}, neither 0 nor 1")
    return number == 1


def _text(cursor: _Cursor) -> str | LongArray:
    length = cursor.number(_U64)
    if length > min(_MAX_TEXT_BYTES, cursor.text_left):
        cursor.skip(length)
        return LongArray("CHARACTER", length)
    cursor.text_left -= length
    return cursor.take(length).decode(errors="replace")  # tokens may be any bytes


def _array(cursor: _Cursor, key: str, depth: int) -> tuple[object, ...] | LongArray:
    kind, length = cursor.number(_U32), cursor.number(_U64)
    if kind not in _KIND_NAMES:
        cursor.refuse(f"the metadata key '{key}' has an array of the unknown type {kind}")
    if kind not in _SCALARS:
        cursor.elements_left -= length * (_ARRAY_COST if kind == _ARRAY else 1)
        if cursor.elements_left < 0:
            cursor.refuse(f"the metadata key '{key}' brings the header to more strings or arrays in arrays than any model has")
    if length <= (_MOST_LAYERS if kind in _SCALARS else _LONG_ARRAY) and length <= cursor.kept_left:
        cursor.kept_left -= length
        return tuple(_value(cursor, key, kind, depth=depth + 1) for _ in range(length))
    if kind in _SCALARS:
        cursor.skip(length * _SCALARS[kind][1].size)
    elif kind == _STRING:
        cursor.skip_strings(length)
    else:
        for _ in range(length):
            _value(cursor, key, kind, depth=depth + 1)
    return LongArray(_KIND_NAMES[kind], length)


def _alignment(cursor: _Cursor, metadata: dict[str, object]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        cursor.refuse(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def padded(position: int, alignment: int) -> int:
    """The first multiple of the alignment from `position` on."""
    return -(-position // alignment) * alignment


def _entry(cursor: _Cursor, alignment: int) -> TensorEntry:
    """One tensor's record; its offset still counts from the start of the data."""
    file, name = cursor.source.name, _name(cursor, "tensor name", _MAX_NAME_BYTES)
    count = cursor.number(_U32)
    if count > _MAX_DIMENSIONS:
        refuse_tensor(file, name, f"it has {count:,} dimensions, more than {_MAX_DIMENSIONS}")
    record = _RECORDS[count]
    *dims, number, offset = record.unpack(cursor.take(record.size))
    kind = GGUF_TYPES.get(number)
    if kind is None:
        refuse_tensor(file, name, f"its type {number} is not one that ggml has")
    row = dims[0] if dims else 1
    if row % kind.block:
        refuse_tensor(file, name, f"its rows of {row:,} elements are no whole blocks of {kind.block}, as {kind.name} needs")
    nbytes = prod(dims) // kind.block * kind.nbytes
    if nbytes > _MAX_SIZE or max(dims, default=1) > _MAX_SIZE:
        refuse_tensor(file, name, f"dimensions {dims} of {kind.name} are more bytes than a file can have")
    if offset % alignment:
        refuse_tensor(file, name, f"its offset {offset:,} is no multiple of the alignment {alignment}")
    return TensorEntry(name, kind.name, tuple(reversed(dims)), file, offset, nbytes)


def _check_layout(tensors: list[TensorEntry], source: ByteSource, data_start: int, alignment: int) -> None:
    """Sorted by offset the tensors must follow one another, padded to the alignment, to the end of the file."""
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    names: set[str] = set()
    end = data_start
    for tensor in tensors:
        if tensor.name in names:
            refuse_tensor(source.name, tensor.name, "it stands twice in the header")
        names.add(tensor.name)
        if tensor.offset < end:
            refuse_tensor(source.name, tensor.name, "overlaps the tensor before it")
        if tensor.offset - end >= alignment:
            refuse_tensor(source.name, tensor.name, f"leaves a hole of {tensor.offset - end:,} bytes before it")
        end = tensor.offset + tensor.nbytes
        if end > source.size:
            refuse_tensor(source.name, tensor.name, f"ends at byte {end:,}, but the file has {source.size:,}: it is cut short")
    if source.size - end >= alignment:
        refuse(source, f"{source.size - end:,} bytes follow the last tensor")
