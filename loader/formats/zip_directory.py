"""The directory of a zip archive whose members are stored, and where in the file each member's bytes begin.

Format: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5 (zip64). Only what torch.save writes is taken: one disk, nothing compressed, nothing
encrypted, no bytes before the archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from ..sources import ByteSource
from .refusal import refuse

MAX_MEMBERS = 250_000
_MAX_DIRECTORY_BYTES = 40_000_000
_END = Struct("<4s4H2LH")
_END64_PLACE = Struct("<4sLQL")
_END64 = Struct("<4sQ2H2L4Q")
_ENTRY = Struct("<4s6H3L5H2L")
_LOCAL = Struct("<4s5H3L2H")
_U64 = Struct("<Q")
_MAX_COMMENT = 65_535
_IN_ZIP64, _ZIP64_EXTRA = 0xFFFFFFFF, 1
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_TORCH_ALIGNMENT = 64
_TORCH_DESCRIPTORS = (16, 24)  # bytes after a member's own; 24 in archives beyond 4 GiB
_CHECKED = 8  # computed beginnings held against the file


class Member(NamedTuple):
    """One stored file of the archive: where its local header is, its length, and where at the latest it ends."""

    name: str
    header: int
    size: int
    described: bool  # a data descriptor follows the bytes
    limit: int


class NearbyReads:
    """A source that keeps the last small piece read, with some bytes more: small reads beside each other become one."""

    _AHEAD = 1 << 14

    def __init__(self, source: ByteSource) -> None:
        """Reads nothing yet."""
        self.name = source.name
        self.size = source.size
        self._source = source
        self._start = 0
        self._piece = b""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer only at the end of the file."""
        if length > self._AHEAD:
            return self._source.read(offset, length)
        if not self._start <= offset <= offset + length <= self._start + len(self._piece):
            self._piece = self._source.read(offset, self._AHEAD)
            self._start = offset
        return self._piece[offset - self._start : offset - self._start + length]


def read_directory(source: ByteSource) -> tuple[dict[str, Member], int]:
    """All members by name in the directory's order, and the directory's length in bytes."""
    offset, length, count = _directory_place(source)
    if count > MAX_MEMBERS:
        refuse(source, f"the zip directory lists {count:,} members, more than {MAX_MEMBERS:,}")
    if length > _MAX_DIRECTORY_BYTES:
        refuse(source, f"the zip directory has {length:,} bytes, more than {_MAX_DIRECTORY_BYTES:,}")
    data = source.read(offset, length)
    entries: list[Member] = []
    position = 0
    for _ in range(count):
        entry, position = _entry(source, data, position)
        entries.append(entry)
    if position != len(data):
        refuse(source, "the zip directory is longer than its entries")
    return _members(source, entries, offset), length


def _directory_place(source: ByteSource) -> tuple[int, int, int]:
    """Offset, length and number of entries of the directory, from the record at the end of the file."""
    tail_start = max(0, source.size - _END.size - _MAX_COMMENT)
    tail = source.read(tail_start, source.size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _END.size:
        refuse(source, "the end of the zip archive is missing: the file is cut short", hint="download it again")
    _, disk, first_disk, _, count, length, offset, comment = _END.unpack_from(tail, at)
    if disk or first_disk:
        refuse(source, "the zip archive is one of several parts")
    if at + _END.size + comment != len(tail):
        refuse(source, "bytes follow the end of the zip archive")
    end = tail_start + at
    if at >= _END64_PLACE.size and tail[at - _END64_PLACE.size :].startswith(b"PK\x06\x07"):
        end, count, length, offset = _zip64_place(source, end - _END64_PLACE.size)
    if offset + length != end:
        refuse(source, f"the zip directory of {length:,} bytes at {offset:,} does not end at {end:,}, where the archive's end begins")
    return offset, length, count


def _zip64_place(source: ByteSource, locator: int) -> tuple[int, int, int, int]:
    _, _, end, _ = _END64_PLACE.unpack(source.read(locator, _END64_PLACE.size))
    if end + _END64.size != locator:
        refuse(source, "the zip64 record is not where the archive says")
    signature, _, _, _, disk, first_disk, _, count, length, offset = _END64.unpack(source.read(end, _END64.size))
    if signature != b"PK\x06\x06" or disk or first_disk:
        refuse(source, "the zip64 record is broken")
    return end, count, length, offset


def _entry(source: ByteSource, data: bytes, position: int) -> tuple[Member, int]:
    """The member that the entry at `position` describes, still without its limit, and where the next entry begins."""
    if position + _ENTRY.size > len(data):
        refuse(source, "the zip directory is shorter than its entries")
    fields = _ENTRY.unpack_from(data, position)
    flags, method, stored, size = fields[3], fields[4], fields[8], fields[9]
    name_length, extra_length, comment_length, header = fields[10], fields[11], fields[12], fields[16]
    name_end = position + _ENTRY.size + name_length
    end = name_end + extra_length + comment_length
    if fields[0] != b"PK\x01\x02" or end > len(data):
        refuse(source, "an entry of the zip directory is broken")
    try:
        name = data[name_end - name_length : name_end].decode()
    except UnicodeDecodeError:
        refuse(source, "a name in the zip directory is not UTF-8")
    if _IN_ZIP64 in (size, stored, header):
        size, stored, header = _zip64_sizes(source, name, data[name_end : name_end + extra_length], (size, stored, header))
    if flags & _ENCRYPTED:
        refuse(source, f"the zip member '{name}' is encrypted")
    if method or stored != size:
        refuse(source, f"the zip member '{name}' is compressed", hint="save it again with torch.save")
    return Member(name, header, size, bool(flags & _DESCRIPTOR), limit=0), end


def _zip64_sizes(source: ByteSource, name: str, extra: bytes, values: tuple[int, int, int]) -> list[int]:
    """`values` with those that did not fit into 32 bits taken from the zip64 extra field."""
    wide: list[int] = []
    while len(extra) >= 4:
        kind, length = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if kind == _ZIP64_EXTRA and not wide:
            field = extra[4 : 4 + length]
            wide = [value for (value,) in _U64.iter_unpack(field[: len(field) // 8 * 8])]
        extra = extra[4 + length :]
    if len(wide) < values.count(_IN_ZIP64):
        refuse(source, f"the zip member '{name}' has no 64-bit size")
    rest = iter(wide)
    return [next(rest) if value == _IN_ZIP64 else value for value in values]


def _members(source: ByteSource, entries: Sequence[Member], directory: int) -> dict[str, Member]:
    """The members by name; none may reach into the next one, nor two have one name (PyTorch looks names up without case)."""
    starts = sorted(member.header for member in entries)
    # Backwards, so that of two members at one place each has the other for its limit.
    limits = dict(zip(reversed(starts), reversed([*starts[1:], directory]), strict=True))
    members: dict[str, Member] = {}
    seen: set[str] = set()
    for entry in entries:
        member = entry._replace(limit=limits[entry.header])
        if member.name.lower() in seen:
            refuse(source, f"the zip member '{member.name}' stands twice")
        if member.header + _LOCAL.size + len(member.name.encode()) + member.size > member.limit:
            refuse(source, f"the zip member '{member.name}' overlaps what follows it")
        seen.add(member.name.lower())
        members[member.name] = member
    return members


def data_start(source: ByteSource, member: Member) -> int:
    """Where the member's bytes begin, by its local header."""
    name = member.name.encode()
    header = source.read(member.header, _LOCAL.size + len(name))
    if len(header) < _LOCAL.size + len(name):
        refuse(source, f"the zip member '{member.name}' lies beyond the end of the file")
    signature, _, _, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack_from(header)
    start = member.header + _LOCAL.size + name_length + extra_length
    if signature != b"PK\x03\x04" or method or header[_LOCAL.size :] != name or name_length != len(name):
        refuse(source, f"the local header of the zip member '{member.name}' does not fit the zip directory")
    if start + member.size > member.limit:
        refuse(source, f"the zip member '{member.name}' overlaps what follows it")
    return start


def data_starts(source: ByteSource, members: Sequence[Member]) -> list[int]:
    """Where each member's bytes begin, mostly without reading its local header: far away, thousands of small reads take minutes.

    torch.save aligns every member's bytes, leaves no holes and ends each member with a descriptor of known size, so that the next
    header tells where the bytes begin. Unless this gives an answer for all, and the right one in a sample, the headers are read.
    """
    starts = [start for member in members if (start := _computed_start(member)) is not None]
    sample = range(0, len(starts), max(1, len(starts) // _CHECKED))
    if len(starts) == len(members) and all(starts[at] == data_start(source, members[at]) for at in sample):
        return starts
    return [data_start(source, member) for member in members]


def _computed_start(member: Member) -> int | None:
    earliest = member.header + _LOCAL.size + len(member.name.encode())
    ends = [member.limit - length for length in (_TORCH_DESCRIPTORS if member.described else (0,))]
    fitting = [end - member.size for end in ends if (end - member.size) % _TORCH_ALIGNMENT == 0 and end - member.size >= earliest]
    return fitting[0] if len(fitting) == 1 else None
