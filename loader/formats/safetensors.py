"""The safetensors header, read as strictly as the format's reference does, with every error naming file and tensor.

Format: 8 bytes little-endian header length, the header as JSON (`{name: {dtype, shape, data_offsets}, "__metadata__": {...}}`),
then the tensors' bytes without holes (https://github.com/huggingface/safetensors, section "Format").
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import TypeGuard

from ..dtypes import BITS
from ..errors import InvalidCheckpointError
from ..sources import ByteSource
from ..strict_json import parse_object
from ..tensors import FileHeader, TensorEntry
from .refusal import refuse, refuse_impostor, refuse_tensor

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 100_000  # the largest known checkpoint has 180,000 in all of its shards
MAX_DIMENSIONS = 64
_MAX_NAME_LENGTH = 1_024
_MAX_NAMES_LENGTH = 8_000_000  # of all names together: every one of them is searched for many words
_MAX_SIZE = 2**63 - 1
_LENGTH_BYTES = 8


def read_header(source: ByteSource) -> FileHeader:
    """The tensor table and metadata of a safetensors file. Raises InvalidCheckpointError where the file breaks the format."""
    data_start = _LENGTH_BYTES + _header_length(source)
    # Read inside the call, so that nobody holds the bytes once they are decoded.
    header = parse_object(source.read(_LENGTH_BYTES, data_start - _LENGTH_BYTES), file=source.name, unique_keys=True)
    metadata = _metadata(header.pop("__metadata__", None), source.name)
    if len(header) > MAX_TENSORS:
        refuse(source, f"the header lists {len(header):,} tensors, more than {MAX_TENSORS:,}")
    _check_names(header, source)
    tensors = [_entry(name, record, source.name, data_start) for name, record in header.items()]
    _check_layout(tensors, source, data_start)
    return FileHeader(tuple(tensors), metadata, data_start)


def _header_length(source: ByteSource) -> int:
    head = source.read(0, _LENGTH_BYTES + 1)
    if head[_LENGTH_BYTES:] != b"{":  # with it, this is what it claims to be: a length of 640, say, begins as pickles do
        refuse_impostor(source, expected="safetensors")
    if source.size < _LENGTH_BYTES:
        refuse(source, f"the file has {source.size} bytes, too few for a header")
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        refuse(source, f"the header would have {length:,} bytes, more than the {MAX_HEADER_BYTES:,} that the format allows")
    if length > source.size - _LENGTH_BYTES:
        refuse(source, f"the header should have {length:,} bytes, but the file ends after {source.size - _LENGTH_BYTES:,}")
    if head[_LENGTH_BYTES:] != b"{":
        refuse(source, "the header does not begin with '{'")
    return length


def _metadata(value: object, file: str) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidCheckpointError("__metadata__ is not a table of strings", file=file)
    return value


def _check_names(names: Collection[str], source: ByteSource) -> None:
    for name in names:
        if len(name) > _MAX_NAME_LENGTH:
            refuse_tensor(source.name, name, f"its name has more than {_MAX_NAME_LENGTH:,} characters")
        if not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name):
            refuse_tensor(source.name, name, "its name is not Unicode: half a surrogate pair stands alone")
    if sum(map(len, names)) > _MAX_NAMES_LENGTH:
        refuse(source, f"the names of its tensors have more than {_MAX_NAMES_LENGTH:,} characters")


def _entry(name: str, record: object, file: str, data_start: int) -> TensorEntry:
    if not isinstance(record, dict) or record.keys() != {"dtype", "shape", "data_offsets"}:
        refuse_tensor(file, name, "its record is not {dtype, shape, data_offsets}")
    dtype, shape, offsets = record["dtype"], record["shape"], record["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        refuse_tensor(file, name, f"unknown dtype {dtype!r}" if isinstance(dtype, str) else "its dtype is not a text")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        refuse_tensor(file, name, "its shape is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        refuse_tensor(file, name, "its data_offsets are not two positions")
    begin, end = offsets
    nbits = prod(shape) * BITS[dtype]
    if nbits % 8 or nbits // 8 > _MAX_SIZE:
        refuse_tensor(file, name, f"shape {shape} of {dtype} is not a whole number of bytes that a file can have")
    if nbits // 8 != end - begin:
        refuse_tensor(
            file, name, f"shape {shape} of {dtype} needs {nbits // 8:,} bytes, its data_offsets [{begin}, {end}] give {end - begin:,}"
        )
    return TensorEntry(name, dtype, tuple(shape), file, data_start + begin, end - begin)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    if not isinstance(value, list):
        return False
    for item in value:  # noqa: SIM110  (a generator doubles the time that 100,000 tensors take)
        # type() rather than isinstance(): a JSON true is no size.
        if type(item) is not int or not 0 <= item <= _MAX_SIZE:
            return False
    return True


def _check_layout(tensors: list[TensorEntry], source: ByteSource, data_start: int) -> None:
    """Sorted by offset the tensors must follow one another to the very end of the file."""
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    expected = data_start
    for tensor in tensors:
        if tensor.offset != expected:
            what = (
                "overlaps the tensor before it"
                if tensor.offset < expected
                else f"leaves a hole of {tensor.offset - expected:,} bytes before it"
            )
            refuse_tensor(source.name, tensor.name, what)
        expected += tensor.nbytes
        if expected > source.size:
            refuse_tensor(source.name, tensor.name, f"ends at byte {expected:,}, but the file has {source.size:,}: it is cut short")
    if expected != source.size:
        refuse(source, f"{source.size - expected:,} bytes follow the last tensor")
