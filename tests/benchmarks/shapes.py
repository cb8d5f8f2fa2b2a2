"""Checkpoints of real shapes without their weights: true headers, index and config over sparse files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlload.configs import table

Shape = tuple[int, ...]
_BYTES = 2  # all tensors are BF16

LLAMA_8B: Mapping[str, Any] = table("shapes")["llama-3-8b"]["config"]
MANY: Mapping[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}


def write_llama_8b(folder: Path, shards: int = 4) -> int:
    """Write a checkpoint shaped as Llama 3 8B and return the number of its tensors, 291."""
    return write(folder, LLAMA_8B, dict(_tensors(LLAMA_8B)), shards=shards)


def write_many(folder: Path, shards: int = 400, tensors: int = 100_000) -> int:
    """Write a mixture of experts with as many whole layers as fit in so many tensors, and return their number."""
    a_layer = sum(1 for _ in _layer(MANY, 0))
    config = dict(MANY) | {"num_hidden_layers": max((tensors - 3) // a_layer, 1)}
    return write(folder, config, dict(_tensors(config)), shards=shards)


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Shape], *, shards: int) -> int:
    """Write shards of about equal size, the index and the config, and return the number of tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(_size(shape) for shape in tensors.values())
    parts: list[dict[str, Shape]] = [{} for _ in range(shards)]
    before = 0
    for name, shape in tensors.items():
        parts[before * shards // total][name] = shape
        before += _size(shape)
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    for name, part in zip(names, parts, strict=True):
        _write_shard(folder / name, part)
    weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- benchmark\n---\n")
    return len(tensors)


def _write_shard(path: Path, tensors: Mapping[str, Shape]) -> None:
    """Write a header as safetensors does (sorted, padded to 8 bytes), and a hole where the weights would be."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(tensors.items()):
        start, end = end, end + _size(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def _size(shape: Shape) -> int:
    return math.prod(shape) * _BYTES


def _tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        yield from _layer(config, layer)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def _layer(config: Mapping[str, Any], layer: int) -> Iterator[tuple[str, Shape]]:
    hidden, heads, groups = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim", hidden // heads)
    prefix = f"model.layers.{layer}"
    yield f"{prefix}.input_layernorm.weight", (hidden,)
    yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    yield f"{prefix}.self_attn.q_proj.weight", (heads * head, hidden)
    yield f"{prefix}.self_attn.k_proj.weight", (groups * head, hidden)
    yield f"{prefix}.self_attn.v_proj.weight", (groups * head, hidden)
    yield f"{prefix}.self_attn.o_proj.weight", (hidden, heads * head)
    if "num_experts" not in config:
        yield from _mlp(f"{prefix}.mlp", hidden, config["intermediate_size"])
        return
    yield f"{prefix}.self_attn.q_norm.weight", (head,)
    yield f"{prefix}.self_attn.k_norm.weight", (head,)
    yield f"{prefix}.mlp.gate.weight", (config["num_experts"], hidden)
    for expert in range(config["num_experts"]):
        yield from _mlp(f"{prefix}.mlp.experts.{expert}", hidden, config["moe_intermediate_size"])


def _mlp(prefix: str, hidden: int, inner: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.gate_proj.weight", (inner, hidden)
    yield f"{prefix}.up_proj.weight", (inner, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, inner)
