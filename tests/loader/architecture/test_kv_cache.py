"""Bytes of key-value cache, against arithmetic by hand; the zoo tests hold them against transformers' own cache."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlload
from mlload.loader.architecture import Kind, find_structure
from mlload.loader.architecture.config_view import ConfigView
from mlload.loader.architecture.kv_cache import KVCache, detect_kv_cache
from mlload.loader.formats.gguf_config import config_from_metadata
from mlload.loader.tensors import TensorEntry


def cache_of(config: dict[str, object], layers: int = 2) -> KVCache | None:
    """The cache by the config alone: projections whose shapes say nothing."""
    names = [f"model.layers.{index}.self_attn.{name}.weight" for index in range(layers) for name in ("qkv_proj", "o_proj")]
    structure = find_structure(TensorEntry(name, "U8", (1, 1), "", 0, 1) for name in names)
    return detect_kv_cache(ConfigView({"dtype": "bfloat16", **config}), structure, Kind.DECODER_ONLY, "BF16")


@pytest.mark.parametrize("model_type", ["mamba", "rwkv", "xlstm"])
def test_models_without_attention_have_none(zoo: Path, model_type: str) -> None:
    assert mlload.inspect(zoo / f"causal-{model_type}").kv_cache is None


def test_encoders_have_none(zoo: Path) -> None:
    assert mlload.inspect(zoo / "masked-bert").kv_cache is None


def test_grouped_heads_of_llama_3_8b() -> None:
    cache = cache_of({"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}, layers=32)
    assert cache is not None
    assert cache.bytes_per_token == 2 * 32 * 8 * 128 * 2 == 131072


def test_a_window_bounds_sliding_layers_only() -> None:
    sizes = {"num_attention_heads": 4, "head_dim": 8, "hidden_size": 32}
    cache = cache_of(sizes | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]})
    assert cache is not None
    assert (cache.full_layers, cache.sliding_layers, cache.window) == (1, 1, 16)
    assert cache.bytes_at(100) == 128 * 100 + 128 * 16


def test_a_negative_length_is_refused() -> None:
    cache = cache_of({"num_attention_heads": 4, "head_dim": 8})
    assert cache is not None
    assert cache.bytes_at(0) == 0
    with pytest.raises(mlload.UsageError, match="a sequence can't have -5 tokens"):
        cache.bytes_at(-5)


def test_a_window_that_is_switched_off_bounds_nothing() -> None:
    cache = cache_of({"num_attention_heads": 4, "head_dim": 8, "sliding_window": 16, "use_sliding_window": False})
    assert cache is not None
    assert (cache.window, cache.sliding_layers) == (None, 0)


def test_latent_attention_gives_both_sizes() -> None:
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
    cache = cache_of({"num_attention_heads": 128, **latent}, layers=61)
    assert cache is not None
    assert cache.bytes_per_token == 61 * (512 + 64) * 2
    assert cache.expanded_bytes_per_token == 61 * 128 * (128 + 64 + 128) * 2


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"n_head": 71, "multi_query": True, "hidden_size": 4544}, 2 * 1),  # Falcon 7B
        ({"n_head": 8, "num_kv_heads": 4, "multi_query": True, "new_decoder_architecture": True, "head_dim": 64}, 2 * 4),
        ({"num_query_heads": [12, 16], "num_kv_heads": [3, 4], "head_dim": 64}, 3 + 4),  # OpenELM
        (
            {"num_attention_heads": 64, "head_dim": 64, "block_configs": [{"attention": {"n_heads_in_group": group}} for group in (8, 16)]},
            8 + 4,  # Nemotron
        ),
    ],
)
def test_heads_of_every_layer(config: dict[str, object], heads: int) -> None:
    cache = cache_of(config)
    assert cache is not None
    assert cache.bytes_per_token == heads * 2 * 64 * 2


@pytest.mark.parametrize(
    ("architecture", "metadata", "full"),
    [
        ("gemma3", {}, 2),
        ("gpt-oss", {}, 6),
        ("other", {}, 0),
        ("gemma4", {"gemma4.attention.sliding_window_pattern": (True, True, True, False) * 3}, 3),
        ("afmoe", {"afmoe.attention.sliding_window_pattern": 6}, 2),
    ],
)
def test_which_layers_of_gguf_see_everything(architecture: str, metadata: dict[str, object], full: int) -> None:
    sizes = {"attention.head_count": 8, "attention.key_length": 256, "attention.sliding_window": 512}
    config = config_from_metadata(
        {"general.architecture": architecture, **{f"{architecture}.{key}": sizes[key] for key in sizes}, **metadata}
    )
    cache = cache_of(config, layers=12)
    assert cache is not None
    assert (cache.full_layers, cache.sliding_layers, cache.window) == (full, 12 - full, 512)


@pytest.mark.parametrize(
    "lengths",
    [
        {"key_length": 192, "value_length": 128},
        {"key_length": 576, "value_length": 512, "key_length_mla": 192, "value_length_mla": 128},
    ],
)
def test_latent_of_gguf(lengths: dict[str, int]) -> None:
    keys = {"rope.dimension_count": 64, "attention.kv_lora_rank": 512, "attention.head_count": 128}
    keys |= {f"attention.{key}": length for key, length in lengths.items()}
    config = config_from_metadata({"general.architecture": "deepseek2"} | {f"deepseek2.{key}": value for key, value in keys.items()})
    cache = cache_of(config, layers=61)
    assert cache is not None
    assert (cache.bytes_per_token, cache.expanded_bytes_per_token) == (61 * 576 * 2, 61 * 128 * 320 * 2)


def test_qwen_2_bounds_the_layers_above() -> None:
    sizes = {"num_attention_heads": 4, "head_dim": 8, "sliding_window": 16, "use_sliding_window": True}
    cache = cache_of(sizes | {"max_window_layers": 3}, layers=4)
    assert cache is not None
    assert (cache.full_layers, cache.sliding_layers) == (3, 1)
