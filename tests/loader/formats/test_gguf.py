"""The GGUF reader against the gguf package's writer and reader, and against hand-made bad bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

import mlload
from mlload.loader.dtypes import GGUF_TYPES
from mlload.loader.errors import InvalidCheckpointError
from mlload.loader.formats.gguf import LongArray, read_header
from mlload.loader.formats.gguf_config import config_from_metadata, file_type
from mlload.loader.tensors import FileHeader

PLAIN = ["float32", "float16", "float64", "int8", "int16", "int32", "int64"]


@dataclass
class Memory:
    """A file's bytes as a source."""

    data: bytes
    name: str = "model.gguf"

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def read(data: bytes) -> FileHeader:
    return read_header(Memory(data))


def finish(writer: gguf.GGUFWriter) -> bytes:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert writer.path is not None
    return Path(writer.path).read_bytes()


@pytest.fixture
def writer(tmp_path: Path) -> gguf.GGUFWriter:
    return gguf.GGUFWriter(tmp_path / "model.gguf", "llama")


# The gguf package as judge


def test_tensor_table_is_what_the_gguf_package_reads(writer: gguf.GGUFWriter, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for dtype in PLAIN:
        writer.add_tensor(f"{dtype}.weight", random.integers(0, 9, (3, 5)).astype(dtype))
    writer.add_tensor("cube.weight", np.zeros((2, 3, 64), np.float32))
    quantized = gguf.quants.quantize(random.normal(size=(4, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q4k.weight", random.integers(0, 255, (2, 288)).astype(np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    data = finish(writer)

    found = {tensor.name: tensor for tensor in read(data).tensors}

    judged = gguf.GGUFReader(tmp_path / "model.gguf").tensors
    assert list(found) == [tensor.name for tensor in judged]
    for tensor in judged:
        ours = found[tensor.name]
        assert (ours.dtype, ours.nbytes, ours.offset) == (tensor.tensor_type.name, tensor.n_bytes, tensor.data_offset)
        assert ours.shape == tuple(reversed(tensor.shape.tolist()))
        assert data[ours.offset : ours.offset + ours.nbytes] == tensor.data.tobytes()


@pytest.mark.parametrize("kind", list(gguf.GGML_QUANT_SIZES), ids=lambda kind: kind.name)
def test_type_has_the_block_that_ggml_gives_it(kind: gguf.GGMLQuantizationType) -> None:
    ours = GGUF_TYPES[kind.value]

    assert (ours.name, (ours.block, ours.nbytes)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])


def test_metadata_of_every_type(writer: gguf.GGUFWriter) -> None:
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -1)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -2)
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -3)
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "grüß")
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("words", ["a", "bc"])

    metadata = read(finish(writer)).metadata

    assert metadata == {
        "general.architecture": "llama",
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -1,
        "u32": 2**32 - 1,
        "i32": -2,
        "u64": 2**64 - 1,
        "i64": -3,
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "text": "grüß",
        "numbers": (1, 2, 3),
        "words": ("a", "bc"),
    }


def test_vocabulary_is_skipped_and_what_follows_is_read(writer: gguf.GGUFWriter) -> None:
    writer.add_token_list([f"token {number}" for number in range(50_000)])
    writer.add_token_scores([0.5] * 50_000)
    writer.add_string("last", "here")

    metadata = read(finish(writer)).metadata

    assert metadata["tokenizer.ggml.tokens"] == LongArray("STRING", 50_000)
    assert metadata["tokenizer.ggml.scores"] == LongArray("FLOAT32", 50_000)
    assert metadata["last"] == "here"


def test_alignment_of_the_file_is_kept(writer: gguf.GGUFWriter) -> None:
    writer.add_custom_alignment(128)
    writer.add_tensor("a", np.ones(3, np.float32))
    writer.add_tensor("b", np.ones(3, np.float32))

    a, b = read(finish(writer)).tensors

    assert (a.offset % 128, b.offset - a.offset) == (0, 128)


def test_file_cut_anywhere_is_refused(writer: gguf.GGUFWriter) -> None:
    writer.add_array("words", ["a", "bc"])
    writer.add_tensor("w", np.ones(32, np.float32))
    data = finish(writer)

    for end in range(len(data)):
        with pytest.raises(InvalidCheckpointError):
            read(data[:end])


# Hand-made files


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, length: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + values


def tensor(name: str | bytes = "w", dims: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def build(*tensors: bytes, pairs: tuple[bytes, ...] = (), data: int = 32, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def counts(tensors: int, pairs: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + bytes(64)


@pytest.mark.parametrize("version", [2, 3])
def test_versions_are_read(version: int) -> None:
    (entry,) = read(build(tensor(dims=(4, 2)), version=version)).tensors

    assert (entry.shape, entry.dtype, entry.nbytes) == ((2, 4), "F32", 32)


def test_arrays_in_arrays_are_kept() -> None:
    inner = array(0, 2, b"\1\2") + array(0, 1, b"\3")

    assert read(build(pairs=(pair("nested", 9, array(9, 2, inner)),), data=0)).metadata == {"nested": ((1, 2), (3,))}


def test_long_array_of_arrays_is_skipped() -> None:
    nested = pair("nested", 9, array(9, 100, array(0, 1, b"\1") * 100))

    assert read(build(pairs=(nested, pair("after", 0, b"\7")), data=0)).metadata == {"nested": LongArray("ARRAY", 100), "after": 7}


def test_endless_text_is_skipped() -> None:
    assert read(build(pairs=(pair("long", 8, text(bytes(2_000_000))),), data=0)).metadata == {"long": LongArray("CHARACTER", 2_000_000)}


def test_texts_are_kept_up_to_a_sum() -> None:
    texts = tuple(pair(f"text {number}", 8, text(bytes(1 << 20))) for number in range(17))

    assert list(map(type, read(build(pairs=texts, data=0)).metadata.values())) == [*[str] * 16, LongArray]


def test_empty_and_zero_dimensional_tensors() -> None:
    scalar, empty, last = read(build(tensor("s", ()), tensor("e", (0, 4), offset=32), tensor("w", offset=32), data=64)).tensors

    assert (scalar.shape, scalar.nbytes, empty.shape, empty.nbytes, last.name) == ((), 4, (4, 0), 0, "w")


BAD = {
    "empty": (b"", "the file is empty"),
    "zip": (b"PK\3\4" + bytes(99), "not a GGUF file: it is a zip archive"),
    "other": (b"abcdefgh" * 9, "not a GGUF file: it does not begin with 'GGUF'"),
    "version 1": (build(version=1), "GGUF version 1 of August 2023 is not read; download"),
    "version 0": (build(version=0), "GGUF version 0 is not known"),
    "version 4": (build(version=4), "GGUF version 4 is not known"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian; convert it"),
    "many tensors": (counts(100_001, 0), "lists 100,001 tensors, more than 100,000"),
    "many keys": (counts(0, 10_001), "lists 10,001 metadata keys, more than 10,000"),
    "records of zeros": (counts(2, 0) + bytes(64), "tensor : it stands twice in the header"),
    "long key": (build(pairs=(text(bytes(70_000)),)), "a metadata key has 70,000 bytes, more than 65,535"),
    "endless key": (build(pairs=(struct.pack("<Q", 2**63),)), "a metadata key has 9,223,372,036,854,775,808 bytes"),
    "key not UTF-8": (build(pairs=(text(b"\xff"),)), "a metadata key is not UTF-8"),
    "key twice": (build(pairs=(pair("k", 0, b"\1"), pair("k", 0, b"\1"))), "the metadata key 'k' stands twice"),
    "value type": (build(pairs=(pair("k", 13, b""),)), "the metadata key 'k' has the unknown type 13"),
    "array type": (build(pairs=(pair("k", 9, array(13, 1)),)), "the metadata key 'k' has an array of the unknown type 13"),
    "boolean": (build(pairs=(pair("k", 7, b"\2"),)), "the metadata key 'k' has the boolean 2, neither 0 nor 1"),
    "deep": (build(pairs=(pair("k", 9, array(9, 1) * 9),)), "the metadata key 'k' has arrays nested more than 4 deep"),
    "endless array": (build(pairs=(pair("k", 9, array(4, 2**62)),)), "goes on beyond the file's 96 bytes: it is cut short"),
    "many strings": (build(pairs=(pair("k", 9, array(8, 4_000_001)),)), "'k' brings the header to more strings or arrays in arrays"),
    "many arrays": (build(pairs=(pair("k", 9, array(9, 40_001)),)), "'k' brings the header to more strings or arrays in arrays"),
    "string too long": (build(pairs=(pair("k", 8, struct.pack("<Q", 2**63)),)), "goes on beyond the file's"),
    "string array cut": (build(pairs=(pair("k", 9, array(8, 65, bytes(8))),)), "goes on beyond the file's"),
    "string array endless": (build(pairs=(pair("k", 9, array(8, 65, b"\xff" * 520)),)), "goes on beyond the file's"),
    "alignment 0": (build(pairs=(pair("general.alignment", 4, bytes(4)),)), "general.alignment is 0, not a power of two"),
    "alignment 24": (build(pairs=(pair("general.alignment", 4, b"\x18\0\0\0"),)), "general.alignment is 24, not a power of two"),
    "alignment text": (build(pairs=(pair("general.alignment", 8, text("32")),)), "general.alignment is '32', not a power of two"),
    "long name": (build(tensor("w" * 1025)), "a tensor name has 1,025 bytes, more than 1,024"),
    "name not UTF-8": (build(tensor(b"\xff")), "a tensor name is not UTF-8"),
    "dimensions": (build(tensor(dims=(1,) * 5)), "tensor w: it has 5 dimensions, more than 4"),
    "tensor type": (build(tensor(kind=4)), "tensor w: its type 4 is not one that ggml has"),
    "no whole block": (build(tensor(dims=(16, 2), kind=2)), "tensor w: its rows of 16 elements are no whole blocks of 32, as Q4_0 needs"),
    "scalar block": (build(tensor(dims=(), kind=2)), "tensor w: its rows of 1 elements are no whole blocks of 32"),
    "overflow": (build(tensor(dims=(2**40, 2**40))), "tensor w: dimensions .* of F32 are more bytes than a file can have"),
    "endless and empty": (build(tensor(dims=(2**64 - 1, 0))), "tensor w: dimensions .* of F32 are more bytes"),
    "offset": (build(tensor(offset=16)), "tensor w: its offset 16 is no multiple of the alignment 32"),
    "name twice": (build(tensor(), tensor(offset=32), data=64), "tensor w: it stands twice in the header"),
    "overlap": (build(tensor(), tensor("v", (1,))), "tensor w: overlaps the tensor before it"),
    "hole": (build(tensor(), tensor("v", offset=64), data=96), "tensor v: leaves a hole of 32 bytes before it"),
    "hole in front": (build(tensor(offset=32), data=64), "tensor w: leaves a hole of 32 bytes before it"),
    "cut": (build(tensor(), data=31), "tensor w: ends at byte 96, but the file has 95: it is cut short"),
    "bytes after": (build(tensor(), data=64), "32 bytes follow the last tensor"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_in_words(name: str) -> None:
    data, message = BAD[name]

    with pytest.raises(InvalidCheckpointError, match=f"^model.gguf: .*({message})"):
        read(data)


# config.json's keys


def test_config_speaks_the_words_of_config_json(writer: gguf.GGUFWriter) -> None:
    writer.add_name("Tiny")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 2])
    writer.add_feed_forward_length([128, 256])
    writer.add_context_length(512)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(128)
    writer.add_token_list([str(number) for number in range(100)])
    writer.add_eos_token_id(7)

    assert config_from_metadata(read(finish(writer)).metadata) == {
        "model_type": "llama",
        "_name": "Tiny",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": [128, 256],
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "vocab_size": 100,
        "eos_token_id": 7,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    }


def test_config_of_experts_under_transformers_name() -> None:
    metadata = {"general.architecture": "qwen3moe", "qwen3moe.expert_count": 8, "qwen3moe.expert_used_count": 2}

    assert config_from_metadata(metadata) == {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2}


@pytest.mark.parametrize(("value", "shown"), [(struct.unpack("<f", struct.pack("<f", 1e-6))[0], 1e-6), (0.1, 0.1), (1e300, 1e300)])
def test_config_writes_floats_as_they_were_meant(value: float, shown: float) -> None:
    metadata = {"general.architecture": "llama", "llama.rope.freq_base": value}

    assert config_from_metadata(metadata)["rope_theta"] == shown


def test_config_of_a_file_without_architecture_is_empty() -> None:
    assert config_from_metadata({"llama.block_count": 2}) == {}


def test_config_leaves_out_what_was_skipped() -> None:
    metadata = {"general.architecture": "llama", "llama.attention.head_count_kv": LongArray("INT32", 90)}

    assert config_from_metadata(metadata) == {"model_type": "llama"}


@pytest.mark.parametrize("kind", [kind for kind in gguf.LlamaFileType if kind.name != "GUESSED"], ids=lambda kind: kind.name)
def test_file_type_has_the_name_that_llama_cpp_gives_it(kind: gguf.LlamaFileType) -> None:
    assert file_type({"general.file_type": kind.value}) == kind.name.removeprefix("ALL_").removeprefix("MOSTLY_")


@pytest.mark.parametrize("value", [None, True, "15", 999])
def test_file_type_that_is_none_is_not_said(value: object) -> None:
    assert file_type({"general.file_type": value}) is None


# A file split by llama.cpp's tools


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A Llama in three parts."""
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama", split_max_tensors=2)
    writer.add_name("Tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    for name in ("token_embd", "blk.0.ffn_up", "blk.0.ffn_down", "output_norm", "output"):
        writer.add_tensor(f"{name}.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "llama-00001-of-00003.gguf"


@pytest.mark.parametrize("part", [1, 2, 3])
def test_naming_one_part_reads_the_whole_series(split: Path, part: int) -> None:
    report = mlload.inspect(split.with_name(f"llama-0000{part}-of-00003.gguf"))

    assert (report.source, report.tensors, report.problems) == ("file", 5, ())
    assert (report.family, report.name, report.file_type) == ("llama", "Tiny", "Q4_K_M")


def test_a_missing_part_is_a_problem(split: Path) -> None:
    split.with_name("llama-00002-of-00003.gguf").unlink()

    (problem,) = mlload.inspect(split).problems
    assert (problem.severity, problem.code, problem.file) == ("error", "missing-shard", "llama-00002-of-00003.gguf")


def test_a_part_under_another_name_tells_that_it_is_one(split: Path) -> None:
    alone = split.rename(split.with_name("alone.gguf"))

    (problem,) = mlload.inspect(alone).problems
    assert (problem.code, problem.message) == ("missing-shard", "it is one of 3 parts by its split.count, but 1 is there")
