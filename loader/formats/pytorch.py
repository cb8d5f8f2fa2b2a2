"""The tensor table of a PyTorch file, from its pickle read as data: nothing in it is ever imported or called.

Formats (torch/serialization.py): since PyTorch 1.6 a zip archive with the members `NAME/data.pkl` and `NAME/data/KEY`, one a
storage; before that, five pickles one after the other, then every storage with its number of elements in front.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import NamedTuple, TypeGuard

from ..dtypes import BITS, TORCH_NAMES
from ..errors import InvalidCheckpointError
from ..sources import ByteSource
from ..tensors import FileHeader, Strided, TensorEntry
from .pickle_names import STORAGE_DTYPES, UNREADABLE_TENSORS, UNTYPED_STORAGES, Opaque, Storage, TensorRecord
from .pickle_table import Unpickled, read_pickle
from .refusal import refuse, refuse_impostor, refuse_tensor
from .zip_directory import Member, NearbyReads, data_start, data_starts, read_directory

MAX_PICKLE_BYTES = 32_000_000  # 100,000 tensors take 25 MB; a text of one wide character takes four times its bytes
MAX_TENSORS = 100_000  # pickles have fewer, but may have one of them under many names
_MAX_DEPTH = 32
_MAX_VALUES = 1_000_000  # entries of dictionaries and lists
_MAX_NAME_LENGTH = 1_024
_MAX_DIMENSIONS = 64
_MAX_SIZE = 2**63 - 1
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_FIRST_WINDOW = 1 << 20
_COUNT_BYTES = 8  # in front of each storage of the old format
_CHECKED = 8  # counts of the old format held against the file
_USE_STATE_DICT = "save model.state_dict() instead"
_SAVE_AGAIN = "load it with PyTorch and save it again on a little-endian machine"


class _Place(NamedTuple):
    """Where a storage's bytes are in the file."""

    start: int
    nbytes: int


def read_header(source: ByteSource) -> FileHeader:
    """The tensor table of a file that torch.save wrote. Raises InvalidCheckpointError where it is not whole and well-formed.

    Metadata: `pickle_globals`, the names in the pickle that are not known to be harmless; `hidden_tensors`, how many tensors lie inside
    objects that are not looked into.
    """
    nearby = NearbyReads(source)
    head = nearby.read(0, 512)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(nearby)
    if head[257:262] == b"ustar":
        refuse(source, "a tar archive, as PyTorch wrote before 0.1.10", hint="load it with an old PyTorch and save it again")
    if head.startswith(b"\x80"):
        if _LEGACY_MAGIC.to_bytes(10, "little") not in head:
            refuse(source, "a Python pickle, but not one of torch.save", hint="convert it to safetensors")
        return _read_legacy(nearby)
    refuse_impostor(source, expected="PyTorch")
    return refuse(source, "not a PyTorch file: it is neither a zip archive nor a pickle", hint="download it again")


def _read_zip(source: ByteSource) -> FileHeader:
    members, directory_bytes = read_directory(source)
    folder = next(iter(members), "").partition("/")[0]
    if f"{folder}/constants.pkl" in members:
        refuse(source, "a TorchScript archive, a program rather than a table of tensors", hint=_USE_STATE_DICT)
    table = members.get(f"{folder}/data.pkl")
    if table is None:
        refuse(source, "a zip archive without PyTorch's data.pkl", hint="unzip it, or download it again")
    _check_byte_order(source, members.get(f"{folder}/byteorder"))
    unpickled = read_pickle(_content(source, table, MAX_PICKLE_BYTES), file=source.name)
    prefix = f"{folder}/data/"
    storages = [member for name, member in members.items() if name.startswith(prefix)]
    starts = data_starts(source, storages)
    places = {member.name.removeprefix(prefix): _Place(start, member.size) for member, start in zip(storages, starts, strict=True)}
    return _header(source, unpickled, places, table.size + directory_bytes)


def _check_byte_order(source: ByteSource, member: Member | None) -> None:
    if member is not None and _content(source, member, 16) != b"little":
        refuse(source, "its tensors are not little-endian", hint=_SAVE_AGAIN)


def _content(source: ByteSource, member: Member, limit: int) -> bytes:
    if member.size > limit:
        refuse(source, f"the zip member '{member.name}' has {member.size:,} bytes, more than {limit:,}")
    return source.read(data_start(source, member), member.size)


def _read_legacy(source: ByteSource) -> FileHeader:
    magic, version, system, table, keys = pickles = _legacy_pickles(source)
    if magic.value != _LEGACY_MAGIC or version.value != _LEGACY_VERSION:
        refuse(source, f"version {_shown(version.value)} of PyTorch's old format is not known")
    if not isinstance(system.value, dict) or system.value.get("little_endian") is not True:
        refuse(source, "its tensors are not little-endian", hint=_SAVE_AGAIN)
    names = frozenset[str]().union(*(part.foreign_names for part in pickles))
    return _header(source, replace(table, foreign_names=names), _legacy_places(source, table, keys), keys.end)


def _legacy_pickles(source: ByteSource) -> list[Unpickled]:
    """Nothing says how long the pickles are: where a window ends inside of them, a larger one is read."""
    window = _FIRST_WINDOW
    while True:
        try:
            return _pickles(source.read(0, window), source.name)
        except InvalidCheckpointError:
            if window >= min(source.size, MAX_PICKLE_BYTES):
                raise
            window = min(8 * window, MAX_PICKLE_BYTES)


def _pickles(data: bytes, file: str) -> list[Unpickled]:
    """Magic number, version, system, tensors, keys of the storages."""
    pickles = [read_pickle(data, file=file)]
    for _ in range(4):
        pickles.append(read_pickle(data, file=file, start=pickles[-1].end))
    return pickles


def _legacy_places(source: ByteSource, table: Unpickled, keys: Unpickled) -> dict[str, _Place]:
    """The storages follow the last pickle in the order of its keys, each after its number of elements."""
    storages = {storage.key: storage for storage in table.storages if isinstance(storage.key, str)}
    if not isinstance(keys.value, list) or not all(isinstance(key, str) and key in storages for key in keys.value):
        refuse(source, "its list of storages does not fit its tensors")
    places: dict[str, _Place] = {}
    position = keys.end
    for key in keys.value:
        places[key] = _Place(position + _COUNT_BYTES, _storage_bytes(storages[key], source.name))
        position += _COUNT_BYTES + places[key].nbytes
    if position != source.size:
        refuse(source, f"its storages end at byte {position:,}, but the file has {source.size:,}", hint="download it again")
    for key in keys.value[:: max(1, len(keys.value) // _CHECKED)]:
        if int.from_bytes(source.read(places[key].start - _COUNT_BYTES, _COUNT_BYTES), "little") != storages[key].numel:
            refuse(source, f"its storage '{key}' has another number of elements than its tensors say")
    return places


def _header(source: ByteSource, unpickled: Unpickled, places: Mapping[str, _Place], header_bytes: int) -> FileHeader:
    tensors: dict[str, TensorEntry] = {}
    reached: set[int] = set()
    for name, record in _named_tensors(unpickled.value, source):
        if name in tensors:
            refuse_tensor(source.name, name, "two tensors have this name")
        if len(tensors) == MAX_TENSORS:
            refuse(source, f"it lists more than {MAX_TENSORS:,} tensors")
        tensors[name] = _entry(name, record, places, source.name)
        reached.add(id(record))
    metadata: dict[str, object] = {"pickle_globals": tuple(sorted(unpickled.foreign_names))}
    if unpickled.tensor_count > len(reached):
        metadata["hidden_tensors"] = unpickled.tensor_count - len(reached)
    return FileHeader(tuple(tensors.values()), metadata, header_bytes)


def _named_tensors(root: object, source: ByteSource) -> Iterator[tuple[str, TensorRecord]]:
    """Every tensor in dictionaries and lists, the names on the way to it joined by dots."""
    if isinstance(root, Opaque):
        refuse(source, f"it holds an object, {root.name}, and no table of tensors", hint=_USE_STATE_DICT)
    if not isinstance(root, (dict, list, tuple)):
        refuse(source, "it holds no table of tensors", hint=_USE_STATE_DICT)
    left = _MAX_VALUES
    path = [("", _items(root))]
    while path:
        prefix, items = path[-1]
        for key, child in items:
            left -= 1
            if not isinstance(child, (dict, list, tuple, TensorRecord, Opaque)):
                continue
            name = f"{prefix}{key}"
            if len(name) > _MAX_NAME_LENGTH:
                refuse_tensor(source.name, name[:100], f"its name has more than {_MAX_NAME_LENGTH:,} characters")
            if isinstance(child, TensorRecord):
                yield name, child
            elif isinstance(child, Opaque):
                if child.name in UNREADABLE_TENSORS:
                    refuse_tensor(source.name, name, f"it is {UNREADABLE_TENSORS[child.name]}", hint="save it as a plain tensor")
            else:
                path.append((f"{name}.", _items(child)))
                break
        else:
            path.pop()
        if len(path) > _MAX_DEPTH:
            refuse(source, f"its tables are nested more than {_MAX_DEPTH} deep, or contain themselves")
        if left < 0:
            refuse(source, f"its tables have more than {_MAX_VALUES:,} entries")


def _items(table: dict[object, object] | list[object] | tuple[object, ...]) -> Iterator[tuple[object, object]]:
    return iter(table.items()) if isinstance(table, dict) else enumerate(table)


def _entry(name: str, record: TensorRecord, places: Mapping[str, _Place], file: str) -> TensorEntry:
    """The tensor's line of the table."""
    storage, offset, shape, stride = record.storage, record.offset, record.shape, record.stride
    if not isinstance(storage, Storage) or not _is_size(offset) or not _are_sizes(shape) or not _are_sizes(stride):
        refuse_tensor(file, name, "its record is not (storage, offset, shape, strides)")
    if len(shape) != len(stride) or len(shape) > _MAX_DIMENSIONS:
        refuse_tensor(file, name, f"it has {len(shape)} dimensions and {len(stride)} strides")
    if record.flags:
        refuse_tensor(file, name, "it is conjugated or negated: its bytes are not its values", hint="save it after .resolve_conj()")
    dtype = _dtype(name, record, storage, file)
    place = places.get(storage.key) if isinstance(storage.key, str) else None
    if place is None:
        refuse_tensor(file, name, f"its storage '{_shown(storage.key)}' is not in the file")
    if place.nbytes != (needed := _storage_bytes(storage, file, name)):
        refuse_tensor(file, name, f"its storage should have {needed:,} bytes, but the file holds {place.nbytes:,}")
    width, count = BITS[dtype] // 8, prod(shape)
    if count * width > _MAX_SIZE:
        refuse_tensor(file, name, f"shape {shape} of {dtype} is more bytes than a file can have")
    reach = offset + (sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1 if count else 0)
    if reach * width > place.nbytes:
        refuse_tensor(file, name, f"it reaches to byte {reach * width:,} of its storage, which has {place.nbytes:,}")
    arrangement = None if _is_contiguous(shape, stride) else Strided(stride)
    return TensorEntry(name, dtype, shape, file, place.start + offset * width, count * width, arrangement)


def _are_sizes(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(_is_size(item) for item in value)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MAX_SIZE


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return prod(shape) == 0
        expected *= size
    return True


def _dtype(name: str, record: TensorRecord, storage: Storage, file: str) -> str:
    if isinstance(record.dtype, Opaque):
        torch_name = record.dtype.name
        dtype = TORCH_NAMES.get(torch_name.removeprefix("torch."))
    else:
        torch_name = storage.kind
        dtype = STORAGE_DTYPES.get(torch_name)
    if dtype is None:
        refuse_tensor(file, name, f"its type {torch_name} is not one that mlload reads")
    return dtype


def _storage_bytes(storage: Storage, file: str, tensor: str | None = None) -> int:
    width = 1 if storage.kind in UNTYPED_STORAGES else BITS.get(STORAGE_DTYPES.get(storage.kind, ""), 0) // 8
    if not width or not _is_size(storage.numel) or storage.view is not None:
        message = f"its storage '{_shown(storage.key)}' is of a kind that mlload does not read ({storage.kind})"
        raise InvalidCheckpointError(message, file=file, tensor=tensor)
    return width * storage.numel


def _shown(value: object) -> str:
    """A plain value as text; of anything else, which may be endless, only the kind."""
    return str(value) if isinstance(value, str) or _is_size(value) else type(value).__name__
