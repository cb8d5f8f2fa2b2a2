"""The zip directory against zipfile and torch.save, and against hand-made bad archives."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass

import pytest
import torch

from mlload.loader.errors import InvalidCheckpointError
from mlload.loader.formats import zip_directory
from mlload.loader.formats.zip_directory import NearbyReads, data_start, data_starts, read_directory


@dataclass
class Memory:
    """A file's bytes as a source that counts its reads."""

    data: bytes
    name: str = "model.bin"
    reads: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        return self.data[offset : offset + length]


def archive(members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    at %= len(data)
    return data[:at] + value + data[at + len(value) :]


PLAIN = archive({"m/a": b"first", "m/empty": b"", "m/c": b"last"})
TORCH = saved({f"w{number}": torch.full((number,), number) for number in range(60)})


@pytest.mark.parametrize("data", [PLAIN, TORCH], ids=["zipfile", "torch"])
def test_members_and_their_bytes_are_what_zipfile_reads(data: bytes) -> None:
    source = Memory(data)

    members, length = read_directory(source)

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert list(members) == file.namelist()
        assert data[file.start_dir :][length:].startswith((b"PK\5\6", b"PK\6\6"))
        for start, member in zip(data_starts(source, list(members.values())), members.values(), strict=True):
            assert data[start : start + member.size] == file.read(member.name)


def test_beginnings_in_torchs_archive_are_computed() -> None:
    source = Memory(TORCH)
    members, _ = read_directory(source)
    source.reads = 0

    data_starts(source, list(members.values()))

    assert source.reads < 20 < len(members)


@pytest.mark.parametrize("descriptor", [16 - 64, 16 + 64])
def test_wrongly_computed_beginnings_are_found_by_the_sample(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_directory, "_TORCH_DESCRIPTORS", (descriptor,))
    source = Memory(TORCH)
    members = list(read_directory(source)[0].values())

    assert data_starts(source, members) == [data_start(source, member) for member in members]


def test_reads_near_each_other_become_one() -> None:
    source = Memory(TORCH)
    nearby = NearbyReads(source)

    pieces = [nearby.read(offset, 10) for offset in range(100, 200, 10)]

    assert (b"".join(pieces), source.reads) == (TORCH[100:200], 1)


def test_archive_beyond_4_gib_is_read_by_its_wide_fields() -> None:
    wide = struct.pack("<HHQQQ", 1, 24, 5, 5, 0)
    entry = PLAIN[PLAIN.index(b"PK\1\2") :][:46]
    entry = patched(patched(entry, 20, b"\xff" * 8), 42, b"\xff" * 4)
    entry = patched(entry, 30, struct.pack("<H", len(wide) + 4)) + b"m/a" + struct.pack("<HH", 9, 0) + wide
    head = PLAIN[: PLAIN.index(b"PK\3\4", 4)]
    data = head + entry + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(head), 0)

    members, _ = read_directory(Memory(data))

    assert (members["m/a"].size, members["m/a"].header) == (5, 0)


LAST = PLAIN.rindex(b"PK\1\2")  # the entry of m/c
BAD = {
    "no end": (PLAIN[:-1], "the end of the zip archive is missing: the file is cut short; download it again"),
    "bytes after": (PLAIN + b"x", "bytes follow the end of the zip archive"),
    "parts": (patched(PLAIN, -18, b"\1"), "the zip archive is one of several parts"),
    "more members": (patched(PLAIN, -12, b"\4"), "the zip directory is shorter than its entries"),
    "fewer members": (patched(PLAIN, -12, b"\1"), "the zip directory is longer than its entries"),
    "elsewhere": (patched(PLAIN, -6, b"\0"), "the zip directory of .* does not end at"),
    "broken entry": (patched(PLAIN, LAST, b"XX"), "an entry of the zip directory is broken"),
    "long entry": (patched(PLAIN, LAST + 32, b"\xff"), "an entry of the zip directory is broken"),
    "encrypted": (patched(PLAIN, LAST + 8, b"\1"), "the zip member 'm/c' is encrypted"),
    "compressed": (archive({"m/a": b"a"}, compression=zipfile.ZIP_DEFLATED), "the zip member 'm/a' is compressed; save it again"),
    "two sizes": (patched(PLAIN, LAST + 20, b"\1"), "the zip member 'm/c' is compressed"),
    "no wide size": (patched(PLAIN, LAST + 42, b"\xff" * 4), "the zip member 'm/c' has no 64-bit size"),
    "name not UTF-8": (patched(PLAIN, LAST + 46, b"\xff"), "a name in the zip directory is not UTF-8"),
    "too long": (patched(PLAIN, LAST + 20, struct.pack("<LL", 99, 99)), "the zip member 'm/c' overlaps what follows it"),
    "one place": (patched(PLAIN, LAST + 42, bytes(4)), "the zip member 'm/a' overlaps what follows it"),
    "beyond": (patched(PLAIN, LAST + 42, b"\xf0\xff\xff\x7f"), "the zip member 'm/c' overlaps what follows it"),
    "upper and lower": (archive({"m/a": b"", "m/A": b""}), "the zip member 'm/A' stands twice"),
    "wide place": (patched(TORCH, -34, b"\1"), "the zip64 record is not where the archive says"),
    "wide signature": (patched(TORCH, -98, b"X"), "the zip64 record is broken"),
    "wide offset": (patched(TORCH, -50, b"\1"), "the zip directory of .* does not end at"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_directory_is_refused_in_words(name: str) -> None:
    data, message = BAD[name]

    with pytest.raises(InvalidCheckpointError, match=f"^model.bin: {message}"):
        read_directory(Memory(data))


BAD_LOCAL = {
    "signature": (patched(PLAIN, 0, b"X"), "the local header of the zip member 'm/a' does not fit the zip directory"),
    "compressed": (patched(PLAIN, 8, b"\x08"), "the local header of the zip member 'm/a' does not fit the zip directory"),
    "name": (patched(PLAIN, 30, b"X"), "the local header of the zip member 'm/a' does not fit the zip directory"),
    "name length": (patched(PLAIN, 26, b"\2"), "the local header of the zip member 'm/a' does not fit the zip directory"),
    "extra length": (patched(PLAIN, 28, b"\1"), "the zip member 'm/a' overlaps what follows it"),
}


@pytest.mark.parametrize("name", BAD_LOCAL)
def test_bad_local_header_is_refused_in_words(name: str) -> None:
    data, message = BAD_LOCAL[name]
    source = Memory(data)

    with pytest.raises(InvalidCheckpointError, match=f"^model.bin: {message}"):
        data_start(source, read_directory(source)[0]["m/a"])


@pytest.mark.parametrize(
    ("limit", "message"),
    [("MAX_MEMBERS", "lists 3 members, more than 2"), ("_MAX_DIRECTORY_BYTES", "has 151 bytes, more than 2")],
)
def test_endless_directory_is_refused(limit: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_directory, limit, 2)

    with pytest.raises(InvalidCheckpointError, match=f"the zip directory {message}"):
        read_directory(Memory(PLAIN))
