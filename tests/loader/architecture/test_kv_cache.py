"""Bytes of key-value cache, against transformers' own cache and against arithmetic by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlload
from mlload.loader.architecture import Kind, find_structure
from mlload.loader.architecture.config_view import ConfigView
from mlload.loader.architecture.kv_cache import KVCache, detect_kv_cache
from mlload.loader.tensors import TensorEntry

# Decoders of each sort: grouped heads, one head for all, latents, hybrids with recurrent layers, sliding windows, shared layers.
TYPES = """
llama gpt2 mixtral gpt_bigcode falcon deepseek_v3 longcat_flash kimi_linear jamba bamba zamba2 mistral gemma2 gemma3_text gemma3n_text
qwen3_next opt bloom olmo2 phi3 stablelm prophetnet
""".split()
LENGTH = 9


def cache_of(config: dict[str, object], layers: int = 2) -> KVCache | None:
    """The cache by the config alone: projections whose shapes say nothing."""
    names = [f"model.layers.{index}.self_attn.{name}.weight" for index in range(layers) for name in ("qkv_proj", "o_proj")]
    structure = find_structure(TensorEntry(name, "U8", (1, 1), "", 0, 1) for name in names)
    return detect_kv_cache(ConfigView({"dtype": "bfloat16", **config}), structure, Kind.DECODER_ONLY, "BF16")


def transformers_bytes(folder: Path, length: int) -> int:
    """Bytes of keys and values that transformers really holds after `length` tokens."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        cache = model(torch.arange(length)[None] % 90 + 3, use_cache=True).past_key_values
    assert isinstance(cache, DynamicCache)
    pairs = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
    return sum(tensor.numel() * tensor.element_size() for pair in pairs for tensor in pair if isinstance(tensor, torch.Tensor))


@pytest.mark.parametrize("model_type", TYPES)
def test_bytes_are_those_that_transformers_caches(zoo: Path, model_type: str) -> None:
    folder = zoo / f"causal-{model_type}"
    cache = mlload.inspect(folder).kv_cache
    assert cache is not None
    assert cache.bytes_at(LENGTH) == transformers_bytes(folder, LENGTH)


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
