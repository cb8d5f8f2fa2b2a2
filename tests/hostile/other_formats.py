"""Cases of PyTorch's and llama.cpp's files."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from hostile.case import Case, Writer
from hostile.writing import CONFIG, INDEX, both, files, safetensors

_BIN, _GGUF = "pytorch_model.bin", "model.gguf"

# Pickles, by hand: nothing here may need torch.


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def _tensor(key: str, numel: int, *, stored: int | None = None, stride: int = 1, storage: str = "FloatStorage") -> bytes:
    """The opcodes by which torch.save writes a vector of floats."""
    place = b"(" + _text("storage") + b"ctorch\n" + storage.encode() + b"\n" + _text(key) + _text("cpu") + _number(stored or numel) + b"tQ"
    size = b"K\0(" + _number(numel) + b"t(" + _number(stride) + b"t\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + size + b"tR"


def _table(*items: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(_text(f"w.{number}") + item for number, item in enumerate(items)) + b"u."


def _run(command: str) -> bytes:
    """A pickle's call of os.system."""
    return b"cposix\nsystem\n(" + _text(command) + b"tR"


def _archive(pickled: bytes, *storages: bytes, method: int = zipfile.ZIP_STORED, table: str = "data.pkl", more: str = "version") -> bytes:
    """A zip archive as torch.save writes it, of a pickle and the storages 0, 1, ..."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        archive.writestr(f"archive/{table}", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, content in enumerate(storages):
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr(f"archive/{more}", "3\n")
    return data.getvalue()


_WHOLE = _archive(_table(_tensor("0", 4)), bytes(16))


def _legacy(table: bytes, keys: list[str], body: bytes) -> bytes:
    """PyTorch's format before 1.6: five pickles and the storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join(head) + table + pickle.dumps(keys, protocol=2) + body


_OLD = _legacy(_table(_tensor("0", 4)), ["0"], struct.pack("<q", 4) + bytes(16))


def _save(data: bytes) -> Writer:
    return files({_BIN: data, CONFIG: {}})


def _marks(make: Callable[[bytes], bytes]) -> Writer:
    """A file around a pickle's call that would leave a mark beside the model's folder."""

    def write(folder: Path) -> None:
        command = _run(f"touch '{folder.parent / 'canary'}'")
        _save(make(command))(folder)

    return write


def _bomb() -> bytes:
    """200 MB of zeros, deflated."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as member:
        for _ in range(200):
            member.write(bytes(1 << 20))
    return data.getvalue()


_ENTRY = _WHOLE[(_DIRECTORY := _WHOLE.find(b"PK\x01\x02")) : _DIRECTORY + 46]  # the directory's first


def _patched(data: bytes, old: bytes, new: bytes) -> bytes:
    """With the bytes from where `old` stands overwritten."""
    at = data.find(old)
    return data[:at] + new + data[at + len(new) :]


def _inserted(record: bytes) -> bytes:
    """The whole archive with a record between its directory and its end."""
    at = _WHOLE.rfind(b"PK\x05\x06")
    return _WHOLE[:at] + record + _WHOLE[at:]


def _zip64_end(*, count: int = 4, length: int | None = None) -> bytes:
    """The 64-bit end record, and the locator that points at it."""
    at = _WHOLE.rfind(b"PK\x05\x06")
    size = at - _DIRECTORY if length is None else length
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, _DIRECTORY)
    return end + b"PK\x06\x07" + struct.pack("<LQL", 0, at, 1)


def _end(**fields: int) -> bytes:
    """The whole archive with its end record's count, length or offset changed."""
    at = _WHOLE.rfind(b"PK\x05\x06")
    names = ("disk", "first_disk", "count_here", "count", "length", "offset", "comment")
    values = dict(zip(names, struct.unpack("<4H2LH", _WHOLE[at + 4 : at + 22]), strict=True)) | fields
    return _WHOLE[:at] + b"PK\x05\x06" + struct.pack("<4H2LH", *values.values()) + _WHOLE[at + 22 :]


def _doubling(times: int) -> bytes:
    """A pair of a pair of a pair ..., each the same one twice: few bytes, and 2 to the `times` ways through them."""
    return b"]q\0" + b"".join(b"h%ch%c\x86q%c" % (level, level, level + 1) for level in range(times))


def _good(name: str, data: bytes, *codes: str) -> Case:
    return Case("good", name, _save(data), 0, codes)


def _bad(name: str, data: bytes | Writer, *words: str) -> Case:
    return Case("hostile", name, _save(data) if isinstance(data, bytes) else data, 4, (_BIN, *words))


def _late(make: Callable[[], bytes]) -> Writer:
    return lambda folder: _save(make())(folder)


PYTORCH = (
    _good("pytorch-zip", _WHOLE),
    _good("pytorch-legacy", _OLD),
    Case("hostile", "pickle-runs-a-command", _marks(lambda call: _archive(_table(_tensor("0", 4), call), bytes(16))), 0, ("pickle-code",)),
    Case(
        "hostile",
        "pickle-runs-before-all",
        _marks(lambda call: _archive(b"\x80\x02" + call + b"0" + _table(_tensor("0", 4))[2:], bytes(16))),
        0,
        ("pickle-code",),
    ),
    Case(
        "hostile",
        "pickle-runs-in-the-old-format",
        _marks(lambda call: _legacy(_table(_tensor("0", 4), call), ["0"], struct.pack("<q", 4) + bytes(16))),
        0,
        ("pickle-code",),
    ),
    Case("hostile", "pickle-alone-runs", _marks(lambda call: b"\x80\x02" + call + b"."), 4, (_BIN, "pickle")),
    Case(
        "hostile", "pickle-as-the-whole-archive-runs", _marks(lambda call: _archive(b"\x80\x02" + call + b".")), 4, (_BIN, "posix.system")
    ),
    Case(
        "hostile",
        "pickle-with-escapes-in-a-name",
        _save(_archive(_table(_tensor("0", 4), b"cev\x1b[31mil\n\xe2\x80\xaex\n)R"), bytes(16))),
        0,
        ("\\x1b[31mil.\\u202ex", "would run code"),
        (),
    ),
    _bad("zip-bomb", _late(_bomb), "compressed"),
    _bad("zip-deflated", _archive(_table(_tensor("0", 4)), bytes(16), method=zipfile.ZIP_DEFLATED), "compressed"),
    _bad("zip-cut", _WHOLE[:-30], "cut short"),
    _bad("zip-cut-in-half", _WHOLE[: len(_WHOLE) // 2], "cut short"),
    _bad("zip-and-more", _WHOLE + b"x", "follow"),
    _bad("zip-without-pickle", _archive(_table(_tensor("0", 4)), bytes(16), table="data.txt"), "data.pkl"),
    _bad("zip-torchscript", _archive(_table(_tensor("0", 4)), bytes(16), more="constants.pkl"), "TorchScript"),
    _bad("zip-counts-65535", _end(count=65_535, count_here=65_535), "shorter than its entries"),
    _bad("zip-counts-none", _end(count=0, count_here=0), "longer than its entries"),
    _bad("zip-directory-elsewhere", _end(offset=2**32 - 2), "does not end"),
    _bad("zip-directory-huge", _end(length=2**32 - 2), "does not end"),
    _bad("zip-of-several-disks", _end(disk=1), "several parts"),
    _bad("zip64-directory-elsewhere", _inserted(b"PK\x06\x07" + struct.pack("<LQL", 0, 2**63, 1)), "zip64"),
    _bad("zip64-directory-of-2-to-the-64-members", _inserted(_zip64_end(count=2**64 - 1)), "more than 250,000"),
    _bad("zip64-directory-of-2-to-the-63-bytes", _inserted(_zip64_end(length=2**63)), "does not end"),
    _bad("zip64-size-missing", _patched(_WHOLE, _ENTRY, _ENTRY[:20] + b"\xff" * 8), "64-bit size"),
    _bad("zip-member-beyond-the-end", _patched(_WHOLE, _ENTRY, _ENTRY[:42] + struct.pack("<L", 2**31)), "overlaps"),
    _bad("pickle-cut", _archive(_table(_tensor("0", 4))[:60], bytes(16)), "cut short"),
    _bad("pickle-of-unknown-opcodes", _archive(b"\x80\x02\xff\xff."), "opcode"),
    _bad("pickle-pops-an-empty-stack", _archive(b"\x80\x02000."), "broken"),
    _bad("pickle-of-a-list-in-itself", _archive(b"\x80\x02]q\0h\0a."), "contain themselves"),
    _bad("pickle-100000-deep", _archive(b"\x80\x02" + b"](" * 100_000 + b"e" * 100_000 + b"."), "deep"),
    _bad("pickle-doubling-2-to-the-30", _archive(b"\x80\x02" + _doubling(30) + b"."), "entries"),
    _bad("pickle-doubling-2-to-the-250", _archive(b"\x80\x02" + _doubling(250) + b"."), "deep"),
    _bad("pickle-without-end", _late(lambda: _archive(b"\x80\x02" + b"]0" * 3_000_000)), "steps"),
    _bad("pickle-of-50-mb", _late(lambda: _archive(bytes(50_000_000))), "32,000,000"),
    _bad("pickle-31-mb-of-empty-tables", _late(lambda: _archive(b"\x80\x02(" + b"}" * 31_000_000 + b"l.")), "steps"),
    _bad("pickle-one-wide-character", _late(lambda: _archive(b"\x80\x02" + _text("a" * 31_000_000 + "😀") + b".")), "table of tensors"),
    _bad("pickle-text-beyond-the-end", _archive(b"\x80\x02X\xff\xff\xff\x7fabc."), "cut short"),
    _bad("storage-missing", _archive(_table(_tensor("1", 4)), bytes(16)), "tensor w.0", "storage"),
    _bad("storage-too-short", _archive(_table(_tensor("0", 4)), bytes(8)), "tensor w.0", "storage"),
    _bad("stride-beyond-the-storage", _archive(_table(_tensor("0", 4, stride=10**9)), bytes(16)), "tensor w.0", "storage"),
    _bad("size-negative", _archive(_table(_tensor("0", -4, stored=4)), bytes(16)), "tensor w.0"),
    _bad("size-10-to-the-18", _archive(_table(_tensor("0", 10**18)), bytes(16)), "tensor w.0"),
    _bad("storage-of-another-kind", _archive(_table(_tensor("0", 4, storage="EvilStorage")), bytes(16)), "tensor w.0", "EvilStorage"),
    _bad("pytorch-empty", b"", "empty"),
    _bad("pytorch-html", b"<!DOCTYPE html><html>", "HTML"),
    _bad("pytorch-lfs-pointer", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    _bad("safetensors-as-bin", safetensors({"w": ("F32", [2])}), "not a PyTorch file"),
    _bad("legacy-cut", _OLD[:-1], "end at byte"),
    _bad("legacy-storage-counts", _OLD.replace(struct.pack("<q", 4) + bytes(16), struct.pack("<q", 5) + bytes(16)), "storage"),
    Case(
        "hostile",
        "index-of-bin-with-folders",
        files({"pytorch_model.bin.index.json": {"weight_map": {"w": "../x.bin"}}}),
        4,
        ("pytorch_model.bin.index.json", "tensor w"),
    ),
    Case(
        "hostile",
        "safetensors-index-to-a-bin",
        both(_marks(lambda call: _archive(_table(_tensor("0", 4), call), bytes(16))), files({INDEX: {"weight_map": {"w.0": _BIN}}})),
        4,
        (_BIN, "safetensors"),
    ),
)


# GGUF


def _string(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def _pair(key: bytes, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


_ARCHITECTURE = _pair(b"general.architecture", 8, _string(b"llama"))


def _record(name: bytes = b"w", dims: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return _string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def _gguf(
    pairs: tuple[bytes, ...] = (_ARCHITECTURE,),
    records: tuple[bytes, ...] = (_record(),),
    *,
    body: int = 32,
    version: int = 3,
    tensor_count: int | None = None,
    pair_count: int | None = None,
) -> bytes:
    """A GGUF file of these pairs and tensors; the counts may lie."""
    counts = (len(records) if tensor_count is None else tensor_count, len(pairs) if pair_count is None else pair_count)
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(records)
    return head + bytes(-len(head) % 32) + bytes(body)


def _array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


_NESTED = _array(4, 1, b"\1\0\0\0")
for _ in range(50):
    _NESTED = _array(9, 1, _NESTED)


def _refused(name: str, data: bytes, *words: str) -> Case:
    return Case("hostile", name, files({_GGUF: data}), 4, (_GGUF, *words))


GGUF = (
    Case("good", "gguf", files({_GGUF: _gguf()})),
    Case("good", "gguf-without-metadata", files({_GGUF: _gguf(pairs=())})),
    _refused("gguf-empty", b"", "empty"),
    _refused("gguf-magic-alone", b"GGUF", "cut short"),
    _refused("gguf-bad-magic", b"GGML" + _gguf()[4:], "GGUF"),
    _refused("gguf-version-1", _gguf(version=1), "version 1"),
    _refused("gguf-version-99", _gguf(version=99), "version 99"),
    _refused("gguf-big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    _refused("gguf-2-to-the-64-tensors", _gguf(tensor_count=2**64 - 1), "tensors"),
    _refused("gguf-2-to-the-64-keys", _gguf(pair_count=2**64 - 1), "keys"),
    _refused("gguf-more-keys-than-there-are", _gguf(pair_count=9_999), _GGUF),
    _refused("gguf-more-tensors-than-there-are", _gguf(tensor_count=200_000), _GGUF),
    _refused("gguf-key-of-2-to-the-63-bytes", _gguf((_string(b"k", 2**63),)), "key"),
    _refused("gguf-text-beyond-the-end", _gguf((_pair(b"k", 8, _string(b"v", 2**40)),)), "cut short"),
    _refused("gguf-text-of-2-to-the-64-bytes", _gguf((_pair(b"k", 8, _string(b"v", 2**64 - 1)),)), "cut short"),
    _refused("gguf-key-twice", _gguf((_ARCHITECTURE, _ARCHITECTURE)), "twice"),
    _refused("gguf-key-not-utf8", _gguf((_pair(b"\xff\xfe", 4, bytes(4)),)), "UTF-8"),
    _refused("gguf-unknown-kind", _gguf((_pair(b"k", 77, b""),)), "type 77"),
    _refused("gguf-array-of-2-to-the-63", _gguf((_pair(b"k", 9, _array(4, 2**63)),)), "cut short"),
    _refused("gguf-array-of-2-to-the-63-texts", _gguf((_pair(b"k", 9, _array(8, 2**63)),)), "strings or arrays"),
    _refused("gguf-array-of-unknown-kind", _gguf((_pair(b"k", 9, _array(77, 1)),)), "type 77"),
    _refused("gguf-arrays-50-deep", _gguf((_pair(b"k", 9, _NESTED),)), "deep"),
    _refused("gguf-boolean-7", _gguf((_pair(b"k", 7, b"\7"),)), "boolean"),
    _refused("gguf-alignment-zero", _gguf((_pair(b"general.alignment", 4, bytes(4)),)), "alignment"),
    _refused("gguf-alignment-three", _gguf((_pair(b"general.alignment", 4, b"\3\0\0\0"),)), "alignment"),
    _refused("gguf-alignment-a-text", _gguf((_pair(b"general.alignment", 8, _string(b"32")),)), "alignment"),
    _refused("gguf-tensor-twice", _gguf(records=(_record(), _record(offset=32)), body=64), "tensor w", "twice"),
    _refused("gguf-tensor-of-unknown-type", _gguf(records=(_record(kind=99),)), "tensor w", "type 99"),
    _refused("gguf-tensor-of-5-dimensions", _gguf(records=(_record(dims=(1, 1, 1, 1, 8)),)), "tensor w", "dimensions"),
    _refused("gguf-tensor-of-no-whole-blocks", _gguf(records=(_record(dims=(33,), kind=2),)), "tensor w", "blocks"),
    _refused("gguf-tensor-overflows", _gguf(records=(_record(dims=(2**63, 2**63)),)), "tensor w"),
    _refused("gguf-offset-unaligned", _gguf(records=(_record(offset=1),)), "tensor w", "alignment"),
    _refused("gguf-offset-beyond-the-end", _gguf(records=(_record(offset=2**40),)), "tensor w"),
    _refused("gguf-tensors-overlap", _gguf(records=(_record(), _record(b"v"))), "tensor", "overlaps"),
    _refused("gguf-data-cut", _gguf()[:-8], "tensor w", "cut short"),
    _refused("gguf-and-more", _gguf() + bytes(4096), "follow"),
    _refused("gguf-name-of-a-megabyte", _gguf(records=(_record(b"w" * 1_000_000),)), "name"),
    _refused("gguf-name-not-utf8", _gguf(records=(_record(b"\xff"),)), "UTF-8"),
    _refused("gguf-name-in-an-error", _gguf(records=(_record(b"\x1b[31m\n", kind=99),)), "\\x1b", "type 99"),
    Case(
        "hostile",
        "gguf-text-with-escapes",
        files(
            {
                _GGUF: _gguf(
                    (
                        _pair(b"general.architecture", 8, _string(b"\x1b[31m\n[red]")),
                        _pair(b"tokenizer.ggml.model", 8, _string(b"\x1b]0;owned\x07")),
                    )
                )
            }
        ),
        0,
        ("\\x1b",),
        (),
    ),
)

CASES = (*PYTORCH, *GGUF)
