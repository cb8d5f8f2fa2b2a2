"""Cases whose size is the attack: headers, indexes and configs of up to 100 MB, made when they are needed and never kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from hostile.case import Case, Writer
from hostile.writing import CONFIG, INDEX, LLAMA_CONFIG, SHARDS, WEIGHTS, header_of, layer, llama, packed, safetensors

_MB100 = 100_000_000


def _file(name: str, content: Callable[[], bytes]) -> Writer:
    """One file made when it is written, beside weights and a config that are correct unless it is one of them."""

    def write(folder: Path) -> None:
        (folder / CONFIG).write_text("{}")
        if name != INDEX:  # a single file comes before an index, which would not be read
            (folder / WEIGHTS).write_bytes(safetensors(llama()))
        (folder / name).write_bytes(content())

    return write


def _entries(count: int, value: bytes) -> bytes:
    """A JSON object of so many keys with that value."""
    return b'{"' + (b'":' + value + b',"').join(b"%d" % number for number in range(count)) + b'":' + value + b"}"


def _tensors(count: int, name: str) -> bytes:
    """A header of so many tensors of four bytes, two to every `{0}`, with a shape that no neighbour has."""
    sizes = {name.format(number // 2, number): ("F32", [1] * (2 + number // 2 % 2)) for number in range(count)}
    return json.dumps(header_of(sizes), separators=(",", ":")).encode()


def _many(count: int, name: str) -> Writer:
    """A whole file of so many tensors."""
    return _file(WEIGHTS, lambda: packed(_tensors(count, name), bytes(4 * count)))


def _linked_shards(folder: Path) -> None:
    """300 shards that are one file of 90,000 tensors: all of it takes 11 MB."""
    first = folder / "model-00001-of-00300.safetensors"
    first.write_bytes(packed(_tensors(90_000, "w{1}"), bytes(360_000)))
    for number in range(2, 301):
        os.link(first, folder / f"model-{number:05d}-of-00300.safetensors")


def _missing_shards(folder: Path) -> None:
    table = {f"w.{number}": f"model-{number}.safetensors" for number in range(50_000)}
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": SHARDS[0]} | table}))
    (folder / SHARDS[0]).write_bytes(safetensors({"w": ("F32", [2])}))
    (folder / CONFIG).write_text("{}")


def _duplicates(folder: Path) -> None:
    for shard in SHARDS:
        (folder / shard).write_bytes(packed(_tensors(25_000, "w{1}"), bytes(100_000)))
    (folder / CONFIG).write_text("{}")


def _billion_layers(folder: Path) -> None:
    """A config of a billion layers, and the last one of them."""
    (folder / WEIGHTS).write_bytes(safetensors({**llama(), **layer(999_999_999)}))
    (folder / CONFIG).write_text(json.dumps(LLAMA_CONFIG | {"num_hidden_layers": 10**9}))


def _many_files(count: int) -> Writer:
    def write(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(safetensors({"w": ("F32", [2])}))
        linked = folder
        for number in range(count):
            if number % 30_000 == 0:  # file systems count links in 16 bits
                linked = folder / f"linked-{number}"
                linked.touch()
            os.link(linked, folder / f"note-{number}")

    return write


def _bad(name: str, file: str, content: Callable[[], bytes], *words: str) -> Case:
    return Case("hostile", name, _file(file, content), 4, (file, *words))


def _header(name: str, content: Callable[[], bytes], *words: str) -> Case:
    return _bad(name, WEIGHTS, lambda: packed(content()), *words)


def _index(name: str, weight_map: Callable[[], bytes], *words: str) -> Case:
    return _bad(name, INDEX, lambda: b'{"weight_map":' + weight_map() + b"}", *words)


def _readable(name: str, write: Writer, *codes: str) -> Case:
    return Case("hostile", name, write, 0, codes)


def _shown(name: str, write: Writer, *words: str) -> Case:
    """Readable, and shown as tables."""
    return Case("hostile", name, write, 0, words, ("--layers",))


CASES = (
    _header("header-100-mb-of-brackets", lambda: b'{"w":' + b"[" * (_MB100 - 5), "values"),
    _header("header-100-mb-of-commas", lambda: b'{"w":[' + b"1," * 49_999_000, "values"),
    _header("header-100-mb-of-quotes", lambda: b"{" + b'"' * (_MB100 - 1), "texts"),
    _header("header-100-mb-of-spaces", lambda: b"{" + b" " * (_MB100 - 2) + b"x", "JSON"),
    _header("header-100-mb-of-digits", lambda: b'{"w":' + b"9" * (_MB100 - 6) + b"}", "number is too long"),
    _header("header-100-mb-in-one-name", lambda: b'{"' + b"a" * (_MB100 - 6) + b'":1}', "tensor aaa"),
    _header("header-100-mb-of-escapes", lambda: b'{"' + b"\\u00e9" * 16_600_000 + b'":1}', "tensor é"),
    _header("header-100-mb-of-metadata", lambda: b'{"__metadata__":{"a":"' + b"a" * (_MB100 - 50) + b'"},"w":1}', "tensor w"),
    _header("header-90-mb-and-a-wide-character", lambda: b'{"' + b"a" * 90_000_000 + "😀".encode() + b'":1}', "non-ASCII"),
    _header("header-24-mb-and-a-wide-character", lambda: b'{"' + b"a" * 24_000_000 + "😀".encode() + b'":1}', "tensor aaa"),
    _header("header-of-10000000-objects", lambda: b"{" + b'"w":{},' * 10_000_000 + b'"v":{}}', "values"),
    _header("header-of-900000-numbers", lambda: b"{" + b'"w":1,' * 900_000 + b'"v":1}', "texts"),
    _header("header-of-500000-objects", lambda: _entries(500_000, b"{}"), "100,000"),
    _header("header-of-500000-lists", lambda: b'{"w":[' + b"[]," * 500_000 + b"[]]}", "tensor w"),
    _header("header-of-120000-tensors", lambda: _tensors(120_000, "w{1}"), "100,000"),
    _header("header-of-90000-long-names", lambda: _tensors(90_000, "{1}" + "a" * 1000), "characters"),
    _index("index-of-6000000-names", lambda: b"{" + b'"w":"",' * 6_000_000 + b'"v":""}', "values"),
    _index("index-of-450000-names", lambda: b"{" + b'"w":"",' * 450_000 + b'"v":""}', "texts"),
    _index("index-of-lists", lambda: b"[" * 49_000_000, "values"),
    _bad("index-over-50-mb", INDEX, lambda: b" " * 50_000_001, "50,000,001"),
    _bad("config-over-10-mb", CONFIG, lambda: b" " * 10_000_001, "10,000,001"),
    _bad("config-of-1000000-objects", CONFIG, lambda: b"{" + b'"w":{},' * 1_000_000 + b'"v":{}}', "values"),
    _bad("config-of-1300000-lists", CONFIG, lambda: b'{"a":[' + b"[]," * 1_299_999 + b"[]]}", "values"),
    _readable("config-of-500000-objects", _file(CONFIG, lambda: _entries(500_000, b"{}"))),
    _readable("names-of-4-mb", _many(4_000, "a.{0}.{1}" + "a." * 500 + "w")),
    _readable("parts-90000", _many(90_000, "w{1}")),
    _shown("parts-10000-shown", _many(10_000, "w{1}"), "w1", "more"),
    _readable("stacks-10000", _many(20_000, "s{0}.0.{1}.w")),
    _shown("stacks-10000-shown", _many(20_000, "s{0}.0.{1}.w"), "s1.0", "more"),
    _readable("layers-9000", _many(18_000, "s.{0}.{1}.w")),
    _shown("layers-9000-shown", _many(18_000, "s.{0}.{1}.w"), "s.1", "more"),
    _readable("layers-11000", _many(22_000, "s.{0}.{1}.w")),
    _readable("last-of-a-billion-layers", _billion_layers, "missing-layers"),
    _shown("last-of-a-billion-layers-shown", _billion_layers, "model.layers.999999999", "layers 2, 3, 4, 5, 6 ... are not stored"),
    _readable("shards-missing-50000", _missing_shards, "missing-shard"),
    _readable("duplicates-25000", _duplicates, "duplicate-tensor", "no-index"),
    Case("hostile", "shards-of-27-million-tensors", _linked_shards, 4, ("model-00003-of-00300.safetensors", "250,000")),
    _readable("files-20000", _many_files(20_000), "no-config"),
    Case("hostile", "files-100001", _many_files(100_001), 4, ("model", "100,000 files")),
)
