"""What the key-value cache of a decoder takes, a token and at any length: grouped heads, latents, sliding windows, shared layers.

For each layer: bytes a token = (key width + value width) * bytes an element, with width = num_key_value_heads * head_dim. A sliding
layer keeps at most its window. Multi-head latent attention keeps kv_lora_rank + qk_rope_head_dim a token (DeepSeek-V2, arXiv
2405.04434, section 2.1), as transformers 5, vLLM and SGLang do; a runtime that caches the expanded heads takes more. An indexer that
chooses which tokens a layer attends to (DeepSeek-V3.2) caches a key a token of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...configs import table
from ..dtypes import BITS, TORCH_NAMES
from ..errors import UsageError
from ..tensors import TensorEntry
from .config_view import MAX_NUMBER, ConfigView
from .kind import Kind
from .structure import Stack, Structure

_KEY = re.compile(
    r"(k_proj|attn_k|\bwk|c_attn|kv_proj|kv_a_proj\w*|key_proj|\bkey|key_value|attn_kv_a\w*|kv_a|\bk)\b|qkv|query_key_value", re.IGNORECASE
)
_KEY_MATRIX = re.compile(r"(attn|attention)\.(\d+\.)?(k_proj|wk)\.weight$|attn_k\.weight$", re.IGNORECASE)
_VALUE_MATRIX = re.compile(r"(attn|attention)\.(\d+\.)?(v_proj|wv)\.weight$|attn_v\.weight$", re.IGNORECASE)
_LATENT_MATRIX = re.compile(r"kv_a_proj_with_mqa\.weight$|attn_kv_a_mqa\.weight$")
_INDEXER_NORM = re.compile(r"indexer\.k_(layer)?norm\.weight$")  # as long as the one key that an indexer keeps for a token
_PACKED = ("U8", "I32", "I16", "U32", "F4")  # several weights an element: their rows may be another number
_NOT_SELF = re.compile(r"encoder_attn|EncDecAttention|cross|linear_attn|mamba|lstm|indexer", re.IGNORECASE)
_RECURRENT_TYPES = re.compile(r"linear|mamba|conv|recurrent|^mlp$|^moe$")
_BOUNDED_TYPES = re.compile(r"sliding|chunked|^local")
_UNCOUNTED_TYPES = re.compile(r"compressed")  # keep one key for many tokens, and buffers (DeepSeek-V4)


@dataclass(frozen=True, slots=True)
class KVCache:
    """Bytes of cache for one sequence in `dtype`. With latent attention `expanded_bytes_per_token` is for runtimes that cache the heads."""

    dtype: str
    bytes_per_token: int  # of all layers, while the sequence is shorter than any window
    full_layers: int
    full_bytes_per_token: int  # of the layers that keep every token
    sliding_layers: int
    window: int | None
    expanded_bytes_per_token: int | None

    def bytes_at(self, length: int) -> int:
        """Bytes for a sequence of `length` tokens. Raises UsageError where it is negative."""
        if length < 0:
            raise UsageError(f"a sequence can't have {length} tokens", hint="give its length as a whole number, 0 or more")
        bounded = length if self.window is None else min(length, self.window)
        return self.full_bytes_per_token * length + (self.bytes_per_token - self.full_bytes_per_token) * bounded


def detect_kv_cache(view: ConfigView, structure: Structure, kind: Kind | None, dtype: str | None) -> KVCache | None:
    """The cache of the model's decoder; None for an encoder, for a model without attention, or where the sizes aren't known."""
    stack = structure.main
    if stack is None or not _decodes(view, kind, stack):
        return None
    cached_as = TORCH_NAMES.get((view.string("torch_dtype") or "").removeprefix("torch."), dtype)
    width = BITS.get(cached_as or "", 0) // 8
    layers = _cached_layers(view, stack)
    widths = [_layer_width(view, stack.layers[index], index) for index in layers]
    if not width or not widths or 0 in widths or _is_uncounted(view):
        return None
    window = view.integer("sliding_window") or view.integer("attention_chunk_size")
    bounded = [_is_bounded(view, index, window) for index in layers]
    full = sum(size for size, is_bounded in zip(widths, bounded, strict=True) if not is_bounded)
    expanded = _expanded_width(view) * len(layers) * width or None
    return KVCache(
        str(cached_as),
        sum(widths) * width,
        bounded.count(False),
        full * width,
        bounded.count(True),
        window if any(bounded) else None,
        expanded,
    )


def kv_heads(view: ConfigView, index: int | None = None) -> int | None:
    """How many heads have keys and values of their own, in layer `index` or in every layer; None where layers differ or nothing tells."""
    if view.flag("multi_query") and not view.flag("new_decoder_architecture"):
        return 1
    listed = _listed_kv_heads(view)
    if listed is None:
        return view.integer("num_key_value_heads") or view.integer("num_attention_heads")
    each = set(listed if index is None else listed[index : index + 1]) - {None}
    return each.pop() if len(each) == 1 else None


def _listed_kv_heads(view: ConfigView) -> list[int | None] | None:
    """A number for each layer (OpenELM), or how many heads share one in each block (Nemotron, made by architecture search)."""
    listed, blocks, heads = view.get("num_key_value_heads"), view.get("block_configs"), view.integer("num_attention_heads")
    if isinstance(listed, list):
        return [each if type(each) is int and 0 < each < MAX_NUMBER else None for each in listed]
    if not isinstance(blocks, list) or not heads:
        return None
    sharing = (ConfigView(block if isinstance(block, dict) else None).section("attention").get("n_heads_in_group") for block in blocks)
    return [heads // each if type(each) is int and each > 0 else None for each in sharing]


def _decodes(view: ConfigView, kind: Kind | None, stack: Stack) -> bool:
    if kind is Kind.VISION_LANGUAGE and stack.role == "encoder":  # CLIP; but what GIT calls its encoder writes the text
        return (view.class_name or "").endswith("ForCausalLM")
    return kind in (Kind.DECODER_ONLY, Kind.SEQ2SEQ, Kind.VISION_LANGUAGE)


def _is_uncounted(view: ConfigView) -> bool:
    """Whether the cache grows otherwise than by a key and a value a layer and token."""
    return view.text_type in table("peculiarities")["uncounted_cache"] or any(
        _UNCOUNTED_TYPES.search(each) for each in _layer_types(view) or ()
    )


def _cached_layers(view: ConfigView, stack: Stack) -> list[int]:
    """The layers that keep keys and values of their own: not recurrent ones, not those that share an earlier layer's."""
    types = _layer_types(view)
    shared = view.integer("num_kv_shared_layers") or 0
    declared = view.integer("num_hidden_layers") or stack.num_layers  # layers beyond are for other purposes (multi-token prediction)
    owners = [index for index in stack.layers if index < declared - shared]
    if types is not None and len(types) >= len(owners):  # tells more than tensors: Zamba's layers share one attention block
        return [index for index in owners if index >= len(types) or not _RECURRENT_TYPES.search(types[index])]
    keys = {name for name in stack.names if _KEY.search(name) and not _NOT_SELF.search(name)}
    return [index for index in owners if not keys.isdisjoint(stack.layers[index])]


def _layer_types(view: ConfigView) -> Sequence[str] | None:
    types = view.get("layer_types") or view.get("layers_block_type")
    return types if isinstance(types, list) and all(isinstance(each, str) for each in types) else None


def _layer_width(view: ConfigView, layer: Mapping[str, TensorEntry], index: int) -> int:
    """Elements a token of what one layer keeps; 0 if unknown."""
    attention = _attention_width(view, layer, index)
    return attention and attention + sum(tensor.numel for name, tensor in layer.items() if "indexer" in name and _INDEXER_NORM.search(name))


def _attention_width(view: ConfigView, layer: Mapping[str, TensorEntry], index: int) -> int:
    """Elements a token of one layer's keys and values: by the projections' rows where stored plainly, else by the config; 0 if unknown."""
    rank = view.integer("kv_lora_rank")
    if rank:
        return _rows(layer, _LATENT_MATRIX) or rank + (view.integer("qk_rope_head_dim") or 0)
    keys = _rows(layer, _KEY_MATRIX)
    if keys:
        return keys + (_rows(layer, _VALUE_MATRIX) or keys)
    return 2 * (kv_heads(view, index) or 0) * (head_dim(view) or 0)


def head_dim(view: ConfigView, hidden_size: int | None = None) -> int | None:
    """Width of a head's queries and keys; with latent attention both parts of it, with and without position."""
    plain, rotary = view.integer("qk_nope_head_dim"), view.integer("qk_rope_head_dim")
    if plain is not None and rotary is not None:
        return plain + rotary
    hidden, heads = view.integer("hidden_size") or hidden_size, view.integer("num_attention_heads")
    return view.integer("head_dim") or (hidden // heads if hidden and heads else None)


def _rows(layer: Mapping[str, TensorEntry], pattern: re.Pattern[str]) -> int:
    """Rows of the layer's projections of one kind, 0 unless all are stored as matrices, an element a weight."""
    found = [tensor for name, tensor in layer.items() if "expert" not in name and pattern.search(name) and not _NOT_SELF.search(name)]
    plain = all(len(tensor.shape) == 2 and tensor.dtype not in _PACKED for tensor in found)
    return sum(tensor.shape[0] for tensor in found) if plain else 0


def _expanded_width(view: ConfigView) -> int:
    """Elements a token of all heads' keys and values that a latent stands for; 0 without latent attention."""
    if not view.integer("kv_lora_rank"):
        return 0
    return (view.integer("num_attention_heads") or 0) * ((head_dim(view) or 0) + (view.integer("v_head_dim") or 0))


def _is_bounded(view: ConfigView, index: int, window: int | None) -> bool:
    """Whether a layer keeps no more than the window."""
    if not window or view.flag("use_sliding_window") is False:
        return False
    types = _layer_types(view)
    if types is not None and index < len(types):
        return _BOUNDED_TYPES.search(types[index]) is not None
    pattern = view.get("sliding_window_pattern")
    if isinstance(pattern, bool):  # of GGUF: whether the window bounds a layer, for each or for all
        return pattern
    if isinstance(pattern, list):
        return index < len(pattern) and pattern[index] in (True, 1)
    first = view.integer("max_window_layers")  # Qwen2: the layers before see everything
    if first is not None:
        return index >= first
    # One of every so many layers sees everything; older configs and GGUF leave to the model's code which one.
    period = view.integer("sliding_window_pattern") or table("peculiarities")["sliding_window_pattern"].get(view.text_type, 0)
    return (index + 1) % period != 0 if period else True
