"""The small checkpoints that the cases are made of, whole or broken on purpose, written without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from hostile.case import Writer

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
LENGTHS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4, "F6_E2M3": 6}

Table = dict[str, Any]
Sizes = Mapping[str, tuple[str, list[int]]]

LLAMA_CONFIG: Table = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 8,
    "intermediate_size": 16,
    "max_position_embeddings": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 16,
}


def layer(number: int) -> dict[str, tuple[str, list[int]]]:
    """One layer of a tiny LLaMA."""
    shapes = {
        "input_layernorm": [8],
        "post_attention_layernorm": [8],
        "self_attn.q_proj": [8, 8],
        "self_attn.k_proj": [4, 8],
        "self_attn.v_proj": [4, 8],
        "self_attn.o_proj": [8, 8],
        "mlp.gate_proj": [16, 8],
        "mlp.up_proj": [16, 8],
        "mlp.down_proj": [8, 16],
    }
    return {f"model.layers.{number}.{name}.weight": ("F32", shape) for name, shape in shapes.items()}


def llama(layers: Iterable[int] = (0, 1)) -> dict[str, tuple[str, list[int]]]:
    """The tensors of a tiny LLaMA that LLAMA_CONFIG describes."""
    outside = {"model.embed_tokens.weight": ("F32", [16, 8]), "model.norm.weight": ("F32", [8]), "lm_head.weight": ("F32", [16, 8])}
    return outside | {name: size for number in layers for name, size in layer(number).items()}


def header_of(sizes: Sizes) -> Table:
    """A correct safetensors header."""
    table: Table = {}
    end = 0
    for name, (dtype, shape) in sizes.items():
        begin, end = end, end + prod(shape) * LENGTHS[dtype] // 8
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return table


def packed(header: bytes | str | Table | list[Any], body: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of that header, be it right or not, and that body; `length` lies about the header's."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def safetensors(sizes: Sizes, **metadata: str) -> bytes:
    """A correct safetensors file, full of zeros."""
    header = header_of(sizes)
    body = bytes(max((record["data_offsets"][1] for record in header.values()), default=0))
    return packed(({"__metadata__": metadata} if metadata else {}) | header, body)


# Writers: each puts files into a folder.


def files(contents: Mapping[str, bytes | str | Table | list[Any]]) -> Writer:
    """These files; what is not bytes or text is written as JSON."""

    def write(folder: Path) -> None:
        for name, content in contents.items():
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def weights(data: bytes) -> Writer:
    """These bytes under the name of the weights, beside a config that says nothing."""
    return files({WEIGHTS: data, CONFIG: {}})


def header(table: bytes | str | Table | list[Any], body: int = 0) -> Writer:
    """A safetensors file of this header and so many bytes of body."""
    return weights(packed(table, bytes(body)))


def tensor(*, dtype: object = "F32", shape: object = [2], data_offsets: object = [0, 8], body: int = 8) -> Writer:
    """A safetensors file of one tensor, `w`, with that record."""
    return header({"w": {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}}, body)


def config(text: bytes | str | Table | list[Any] | None = None, **changes: object) -> Writer:
    """A correct LLaMA with another config, or with some keys changed; None leaves a key out."""
    whole = {key: value for key, value in (LLAMA_CONFIG | changes).items() if value is not None} if text is None else text
    return files({WEIGHTS: safetensors(llama()), CONFIG: whole})


def model(sizes: Sizes, **changes: object) -> Writer:
    """These tensors beside the LLaMA's config, with some keys changed."""
    return files({WEIGHTS: safetensors(sizes), CONFIG: LLAMA_CONFIG | changes})


def split() -> tuple[Sizes, Sizes]:
    """The LLaMA's tensors in two shards."""
    whole = llama()
    first = {name: size for name, size in whole.items() if "layers.1." not in name}
    return first, {name: size for name, size in whole.items() if name not in first}


def weight_map() -> dict[str, Any]:
    """Which of the two shards each tensor is in."""
    return {name: shard for shard, sizes in zip(SHARDS, split(), strict=True) for name in sizes}


def index(text: bytes | str | Table | list[Any]) -> Writer:
    """The LLaMA in two correct shards, with this index."""
    first, second = split()
    return files({SHARDS[0]: safetensors(first), SHARDS[1]: safetensors(second), INDEX: text, CONFIG: LLAMA_CONFIG})


def mapped(changes: Mapping[str, object] | None = None, *, total_size: object = None) -> Writer:
    """The same with a correct index, but for some tensors' shards (None: not listed) and the total."""
    table = {name: shard for name, shard in (weight_map() | dict(changes or {})).items() if shard is not None}
    return index({"metadata": {} if total_size is None else {"total_size": total_size}, "weight_map": table})


def sparse(name: str, data: bytes, size: int) -> Writer:
    """A file of `size` bytes that takes no room on the disk: it begins with `data`, the rest are holes."""

    def write(folder: Path) -> None:
        with open(folder / name, "wb") as file:
            file.write(data)
            file.truncate(size)

    return write


def both(*writers: Writer) -> Writer:
    """One after the other."""

    def write(folder: Path) -> None:
        for each in writers:
            each(folder)

    return write


def nothing(_: Path) -> None:
    """An empty folder."""
