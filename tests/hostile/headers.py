"""Cases of one safetensors file: its first bytes, its header, its records and its layout."""

from __future__ import annotations

import gzip
import json
import pickle

from hostile.case import Case, Writer
from hostile.writing import (
    CONFIG,
    WEIGHTS,
    Table,
    both,
    files,
    header,
    header_of,
    llama,
    packed,
    safetensors,
    sparse,
    weights,
)
from hostile.writing import tensor as one

_W: Table = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456789\n"
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
_TIB = 1 << 40
_MB100 = 100_000_000
_CONFIG_ONLY = files({CONFIG: {}})


def _good(name: str, write: Writer) -> Case:
    return Case("good", name, write)


def _bad(name: str, write: Writer, *words: str) -> Case:
    return Case("broken", name, write, 4, (WEIGHTS, *words))


def _hostile(name: str, write: Writer, *words: str) -> Case:
    return Case("hostile", name, write, 4, (WEIGHTS, *words))


def _raw(text: str | bytes) -> Writer:
    """A header written by hand, and eight bytes."""
    return header(text, 8)


def _two(first: list[int], second: list[int], body: int) -> Writer:
    return header({"a": {**_W, "data_offsets": first}, "b": {**_W, "data_offsets": second}}, body)


_RECORD = json.dumps(_W)
_WHOLE = safetensors(llama())

_TERABYTE = packed(header_of({"w": ("F32", [_TIB // 4])}))
_EMPTY = {"a": {**_W, "shape": [], "data_offsets": [0, 4]}, "b": {**_W, "shape": [0, 7], "data_offsets": [4, 4]}}
_SMALL = {"a": {**_W, "dtype": "F4", "data_offsets": [0, 1]}, "b": {**_W, "dtype": "F6_E2M3", "shape": [4], "data_offsets": [1, 4]}}

GOOD = (
    _good("llama", weights(_WHOLE)),
    _good("metadata", weights(safetensors(llama(), format="pt", author="[red]"))),
    _good("scalar-and-empty", header(_EMPTY, 4)),
    _good("sub-byte-dtypes", header(_SMALL, 4)),
    _good("offsets-in-another-order", _two([8, 16], [0, 8], 16)),
    _good("header-padded", weights(packed(json.dumps({"w": _W}) + " " * 4096, bytes(8)))),
    _good("names-in-unicode", header({"слой.0.вес": _W}, 8)),
    _good("name-is-empty", header({"": _W}, 8)),
    _good("sparse-terabyte", both(_CONFIG_ONLY, sparse(WEIGHTS, _TERABYTE, len(_TERABYTE) + _TIB))),
    _good("ten-thousand-tensors", weights(safetensors({f"w.{number}": ("F32", [1]) for number in range(10_000)}))),
)

IMPOSTORS = (
    _bad("zero-bytes", weights(b""), "is empty"),
    _bad("seven-bytes", weights(b"\x08\0\0\0\0\0\0"), "7 bytes"),
    _bad("length-only", weights(packed(b"", length=10)), "10 bytes", "ends after 0"),
    _bad("all-zeros", weights(bytes(4096)), "zeros"),
    _bad("lfs-pointer", weights(_LFS), "Git LFS", "git lfs pull"),
    _bad("html-page", weights(_PAGE), "HTML"),
    _bad("html-page-with-bom", weights(b"\xef\xbb\xbf\r\n" + _PAGE), "HTML"),
    _bad("xml-error", weights(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), "HTML"),
    _bad("zip-inside", weights(b"PK\x03\x04" + bytes(100)), "zip"),
    _bad("pickle-inside", weights(pickle.dumps({"w": [1.0] * 100}, protocol=2)), "pickle"),
    _bad("gguf-inside", weights(b"GGUF\3\0\0\0" + bytes(64)), "GGUF"),
    _bad("gzip-inside", weights(gzip.compress(_WHOLE)), "compressed"),
    _bad("hdf5-inside", weights(b"\x89HDF\r\n\x1a\n" + bytes(64)), "HDF5"),
    _bad("json-error-page", weights(b'{"error":"Invalid username or password."}'), "bytes"),
    _bad("text-inside", weights(b"Entry not found\n" * 4), "bytes"),
)

LENGTHS = (
    _bad("length-beyond-file", weights(packed({"w": _W}, bytes(8), length=10_000)), "10,000"),
    _bad("length-one-short", weights(packed({"w": _W}, bytes(8), length=len(_RECORD) + 6)), "JSON"),
    _bad("length-zero", weights(packed(b"", bytes(64), length=0)), "zeros"),
    _hostile("length-over-100-mb", weights(packed({"w": _W}, bytes(8), length=_MB100 + 1)), "100,000,001"),
    _hostile("length-2-to-the-63", weights(packed({"w": _W}, bytes(8), length=2**63)), "9,223,372,036,854,775,808"),
    _hostile("length-2-to-the-64-less-one", weights(packed({"w": _W}, bytes(8), length=2**64 - 1)), "100,000,000"),
    _hostile("sparse-header-of-100-mb", both(_CONFIG_ONLY, sparse(WEIGHTS, packed(b"", length=_MB100), _MB100 + 8)), "'{'"),
    _hostile("sparse-terabyte-of-nothing", both(_CONFIG_ONLY, sparse(WEIGHTS, b"", _TIB)), "zeros"),
    _hostile("sparse-terabyte-behind-a-header", both(_CONFIG_ONLY, sparse(WEIGHTS, packed({"w": _W}), _TIB)), "follow the last tensor"),
    _bad("header-cut", weights(_WHOLE[:400]), "the file ends after"),
    _bad("data-cut-by-a-byte", weights(_WHOLE[:-1]), "tensor model.layers.1.mlp.down_proj.weight", "cut short"),
    _bad("data-cut-in-half", weights(_WHOLE[: len(_WHOLE) // 2]), "tensor model.", "cut short"),
    _bad("no-data", weights(packed(header_of(llama()))), "tensor model.embed_tokens.weight", "cut short"),
    _bad("a-byte-more", weights(_WHOLE + b"\0"), "1 bytes follow"),
    _bad("a-megabyte-more", weights(_WHOLE + bytes(1 << 20)), "1,048,576 bytes follow"),
)

SYNTAX = (
    _bad("header-is-a-list", _raw("[]"), "'{'"),
    _bad("header-is-text", _raw('"weights"'), "'{'"),
    _bad("header-begins-with-a-space", _raw(' {"w": ' + _RECORD + "}"), "'{'"),
    _bad("header-and-more", _raw('{"w": ' + _RECORD + "} x"), "JSON"),
    _bad("header-twice", _raw('{"w": ' + _RECORD + '}{"v": ' + _RECORD + "}"), "JSON"),
    _bad("header-not-closed", _raw('{"w": ' + _RECORD), "JSON"),
    _bad("header-with-a-comment", _raw('{/* */"w": ' + _RECORD + "}"), "JSON"),
    _bad("header-with-single-quotes", _raw("{'w': 1}"), "JSON"),
    _bad("header-with-a-raw-newline", _raw('{"w\n": ' + _RECORD + "}"), "JSON"),
    _bad("header-not-utf8", _raw(b'{"w\xff": ' + _RECORD.encode() + b"}"), "UTF-8"),
    _bad("header-in-utf16", _raw(('{"w": ' + _RECORD + "}").encode("utf-16-le")), "JSON"),
    _bad("header-with-encoded-surrogates", _raw(b'{"\xed\xa0\x80": ' + _RECORD.encode() + b"}"), "UTF-8"),
    _bad("tensor-twice", _raw('{"w": ' + _RECORD + ', "w": ' + _RECORD + "}"), "tensor w", "twice"),
    _bad("tensor-twice-in-escapes", _raw('{"w": ' + _RECORD + ', "\\u0077": ' + _RECORD + "}"), "tensor w", "twice"),
    _bad("dtype-twice", _raw('{"w": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}'), "dtype", "twice"),
    _bad("metadata-twice", _raw('{"__metadata__": {}, "__metadata__": {}, "w": ' + _RECORD + "}"), "__metadata__", "twice"),
    _bad("metadata-of-numbers", header({"__metadata__": {"a": 1}, "w": _W}, 8), "__metadata__"),
    _bad("metadata-nested", header({"__metadata__": {"a": {"b": "c"}}, "w": _W}, 8), "__metadata__"),
    _bad("metadata-a-list", header({"__metadata__": ["a"], "w": _W}, 8), "__metadata__"),
    _bad("metadata-not-a-number", _raw('{"__metadata__": NaN, "w": ' + _RECORD + "}"), "__metadata__"),
    _bad("name-a-lone-surrogate", _raw('{"\\ud800": ' + _RECORD + "}"), "tensor", "Unicode"),
    _hostile("lists-100000-deep", _raw('{"w": ' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deeply"),
    _hostile("objects-100000-deep", _raw('{"w": ' * 100_000 + "1" + "}" * 100_000), "nested too deeply"),
    _hostile("lists-900-deep", _raw('{"w": ' + "[" * 900 + "]" * 900 + "}"), "tensor w"),
    _hostile("number-of-5000-digits", _raw('{"w": ' + "9" * 5000 + "}"), "number is too long"),
)

RECORDS = (
    _bad("dtype-unknown", one(dtype="F33"), "tensor w", "F33"),
    _bad("dtype-in-lower-case", one(dtype="f32"), "tensor w", "dtype"),
    _bad("dtype-a-number", one(dtype=32), "tensor w", "dtype"),
    _bad("dtype-a-list", one(dtype=["F32"]), "tensor w", "dtype"),
    _bad("dtype-null", one(dtype=None), "tensor w", "dtype"),
    _bad("dtype-missing", header({"w": {"shape": [2], "data_offsets": [0, 8]}}, 8), "tensor w", "dtype"),
    _bad("record-with-a-key-more", header({"w": {**_W, "strides": [1]}}, 8), "tensor w"),
    _bad("record-a-list", header({"w": ["F32", [2], [0, 8]]}, 8), "tensor w"),
    _bad("record-a-text", header({"w": "F32"}, 8), "tensor w"),
    _bad("record-null", header({"w": None}, 8), "tensor w"),
    _bad("shape-negative", one(shape=[-2]), "tensor w", "shape"),
    _bad("shape-twice-negative", one(shape=[-1, -2]), "tensor w", "shape"),
    _bad("shape-true", one(shape=[True, 2]), "tensor w", "shape"),
    _bad("shape-a-float", one(shape=[2.0]), "tensor w", "shape"),
    _bad("shape-a-text", one(shape="2"), "tensor w", "shape"),
    _bad("shape-of-texts", one(shape=["2"]), "tensor w", "shape"),
    _bad("shape-null", one(shape=None), "tensor w", "shape"),
    _bad("shape-an-object", one(shape={"0": 2}), "tensor w", "shape"),
    _bad("shape-nested", one(shape=[[2]]), "tensor w", "shape"),
    _bad("shape-not-a-number", _raw('{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}'), "tensor w", "shape"),
    _hostile("shape-of-65-dimensions", one(shape=[1] * 64 + [2]), "tensor w", "shape"),
    _hostile("shape-of-100000-dimensions", one(shape=[1] * 100_000), "tensor w", "shape"),
    _hostile("shape-10-to-the-400", one(shape=[10**400]), "tensor w", "shape"),
    _hostile("shape-overflows-64-bits", one(shape=[2**32, 2**32, 2]), "tensor w", "shape"),
    _hostile("shape-overflows-to-8-bytes", one(shape=[2**62 + 1, 2, 2**60 + 1]), "tensor w", "shape"),
    _hostile("shape-63-bits-in-64-dimensions", one(shape=[2**63 - 1] * 64), "tensor w", "shape"),
    _bad("size-too-small", one(shape=[1]), "tensor w", "needs 4 bytes"),
    _bad("size-too-large", one(shape=[3]), "tensor w", "needs 12 bytes"),
    _bad("size-of-another-dtype", one(dtype="BF16"), "tensor w", "needs 4 bytes"),
    _bad("f4-of-three-elements", one(dtype="F4", shape=[3], data_offsets=[0, 2], body=2), "tensor w", "whole number of bytes"),
    _bad("f6-of-two-elements", one(dtype="F6_E3M2", shape=[2], data_offsets=[0, 2], body=2), "tensor w", "whole number of bytes"),
    _bad("offsets-reversed", one(data_offsets=[8, 0]), "tensor w", "-8"),
    _bad("offsets-negative", one(data_offsets=[-8, 0]), "tensor w", "data_offsets"),
    _bad("offsets-of-floats", one(data_offsets=[0.0, 8.0]), "tensor w", "data_offsets"),
    _bad("offsets-of-booleans", one(data_offsets=[False, 8]), "tensor w", "data_offsets"),
    _bad("offsets-of-texts", one(data_offsets=["0", "8"]), "tensor w", "data_offsets"),
    _bad("offsets-three", one(data_offsets=[0, 8, 8]), "tensor w", "data_offsets"),
    _bad("offsets-one", one(data_offsets=[8]), "tensor w", "data_offsets"),
    _hostile("offsets-10-to-the-400", one(data_offsets=[0, 10**400]), "tensor w", "data_offsets"),
    _hostile("offsets-2-to-the-63", one(data_offsets=[2**63 - 9, 2**63 - 1]), "tensor w", "hole"),
)

LAYOUT = (
    _bad("tensor-beyond-the-end", one(shape=[4], data_offsets=[0, 16]), "tensor w", "cut short"),
    _bad("hole-at-the-start", one(data_offsets=[8, 16], body=16), "tensor w", "hole of 8 bytes"),
    _bad("hole-between", _two([0, 8], [12, 20], 20), "tensor b", "hole of 4 bytes"),
    _bad("overlap", _two([0, 8], [4, 12], 12), "tensor b", "overlaps"),
    _bad("two-tensors-on-the-same-bytes", _two([0, 8], [0, 8], 8), "tensor b", "overlaps"),
    _hostile(
        "code-before-the-first-tensor",
        weights(packed({"w": {**_W, "data_offsets": [4096, 4104]}}, b"MZ" + bytes(4102))),
        "tensor w",
        "hole",
    ),
    _hostile("code-behind-the-last-tensor", weights(packed({"w": _W}, bytes(8) + b"PK\x03\x04" + bytes(96))), "100 bytes follow"),
)

CASES = (*GOOD, *IMPOSTORS, *LENGTHS, *SYNTAX, *RECORDS, *LAYOUT)
