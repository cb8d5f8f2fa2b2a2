"""The sizes and quirks that make a tiny config of every model type, and the recipe that applies them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any, Final

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

VOCAB: Final = 99
HIDDEN: Final = 32
FEED_FORWARD: Final = 56
EXPERTS: Final = 6
ENCODER_LAYERS: Final = 3
DECODER_LAYERS: Final = 2
VISION_LAYERS: Final = 4
AUDIO_LAYERS: Final = 5


def _same(value: object, names: str) -> dict[str, Any]:
    """Give one value to several fields."""
    return dict.fromkeys(names.split(), value)


# Fields of a text model. Sizes differ from one another on purpose, so that a reader who mixes two up is noticed.
TEXT: Final[dict[str, Any]] = {
    **_same(VOCAB, "vocab_size src_vocab_size tgt_vocab_size vocab_size_per_layer_input"),
    **_same(HIDDEN, "hidden_size d_model n_embd dim emb_dim"),
    **_same(
        FEED_FORWARD,
        "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff n_inner ffn_hidden_size dff dim_ff d_inner"
        " hidden_dim feed_forward_size intermediate_size_mlp dense_intermediate_size",
    ),
    **_same(
        24,
        "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size"
        " moe_shared_expert_intermediate_size shared_experts_intermediate_size prefix_dense_intermediate_size",
    ),
    **_same(ENCODER_LAYERS, "num_hidden_layers n_layer n_layers num_layers encoder_layers num_encoder_layers"),
    **_same(DECODER_LAYERS, "decoder_layers num_decoder_layers"),
    **_same(
        4,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads"
        " num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads",
    ),
    **_same(2, "num_key_value_heads kv_n_heads swa_num_key_value_heads"),
    **_same(8, "head_dim d_kv swa_head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim dim_head d_head kv_channels"),
    **_same(8, "linear_key_head_dim linear_value_head_dim linear_head_dim attention_head_size global_head_dim"),
    **_same(4, "linear_num_value_heads linear_num_heads index_n_heads"),
    **_same(2, "linear_num_key_heads"),
    **_same(EXPERTS, "num_experts n_routed_experts num_local_experts moe_num_experts"),
    **_same(2, "num_experts_per_tok moe_k moe_topk moe_top_k top_k_experts n_group"),
    **_same(1, "topk_group first_k_dense_replace num_shared_experts n_shared_experts moe_num_shared_experts"),
    **_same(1, "num_dense_layers num_mtp_layers num_nextn_predict_layers"),
    **_same(64, "max_position_embeddings n_positions n_ctx max_seq_len max_source_positions max_target_positions"),
    **_same(64, "max_2d_position_embeddings max_encoder_position_embeddings max_decoder_position_embeddings"),
    **_same(16, "sliding_window sliding_window_size attention_window_size local_attention window_size index_head_dim attention_chunk_size"),
    "kv_lora_rank": 16,
    "q_lora_rank": 20,
    "o_lora_rank": 12,
    "index_topk": 4,
    "laurel_rank": 4,
    "hidden_size_per_layer_input": 8,
    "embedding_size": 20,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_chunk_size": 8,
    "state_size": 8,
    "ssm_state_size": 8,
    "chunk_size": 8,
    "rotary_dim": 4,
    "num_codebooks": 2,
}

# Fields set even where their default is None, because None would be replaced by a full-size value or hide a feature.
EVEN_IF_NONE: Final = frozenset({"num_key_value_heads", "num_decoder_layers"})

VISION: Final[dict[str, Any]] = {
    **_same(16, "hidden_size embed_dim d_model"),
    **_same(40, "intermediate_size mlp_dim"),
    **_same(VISION_LAYERS, "num_hidden_layers depth num_layers"),
    **_same(2, "num_attention_heads num_heads num_key_value_heads attention_heads"),
    **_same(HIDDEN, "out_hidden_size output_proj_dims projection_dim"),
    "head_dim": 8,
    "image_size": 16,
    "patch_size": 4,
    "num_position_embeddings": 16,
    "position_embedding_size": 16,
    "mm_embed_dim": 16,
    "mm_posemb_size": 16,
    "output_channels": 8,
    "crop_size": 16,
}

# A nested config called "decoder" must not be taken for the encoder beside it.
DECODER: Final[dict[str, Any]] = TEXT | {"num_hidden_layers": DECODER_LAYERS}

AUDIO: Final[dict[str, Any]] = {
    **_same(16, "hidden_size d_model hidden_dim"),
    **_same(40, "intermediate_size encoder_ffn_dim feedforward_dim"),
    **_same(AUDIO_LAYERS, "num_hidden_layers encoder_layers num_layers conf_num_hidden_layers num_blocks"),
    **_same(2, "num_attention_heads num_heads encoder_attention_heads num_key_value_heads conf_num_attention_heads"),
    **_same(8, "num_mel_bins head_dim dim_head"),
    **_same(HIDDEN, "output_proj_dims output_dim"),
    **_same(16, "downsample_hidden_size nemo_conv_channels ext_pw_out_channel depthwise_separable_out_channel input_size"),
    **_same(16, "n_window n_window_infer context_size max_pos_emb"),
    "max_source_positions": 32,
    "vocab_size": VOCAB,
}

_LINEAR_AND_FULL: Final = ["linear_attention", "full_attention", "linear_attention"]
_SLIDING_AND_FULL: Final = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_GEMMA_SHARING: Final = {"num_hidden_layers": 4, "layer_types": _SLIDING_AND_FULL, "num_kv_shared_layers": 1}
_GEMMA4: Final = {"global_head_dim": 16}
_GEMMA4_ASSISTANT: Final = {
    "text_config": _GEMMA4 | _same(0, "hidden_size_per_layer_input vocab_size_per_layer_input"),
    "backbone_hidden_size": HIDDEN,
}
_BLT_LOCAL: Final = {"hidden_size_global": 64}
_GRANITE_SPEECH: Final = {
    "encoder_config": {"num_layers": 4, "hidden_dim": 16, "input_dim": 8, "context_size": 8, "max_pos_emb": 16, "dim_head": 8},
    "projector_config": {"hidden_size": 16, "encoder_hidden_size": 16},
}
_ESM: Final = {"vocab_size": VOCAB, "pad_token_id": 1, "mask_token_id": 98}
_REFORMER: Final = {
    "attn_layers": ["local", "lsh", "local"],
    "axial_pos_shape": [8, 8],
    "axial_pos_embds_dim": [8, 24],
    "local_attn_chunk_length": 4,
    "lsh_attn_chunk_length": 4,
    "num_buckets": 2,
    "hash_seed": 1,
}
_XMOD: Final = {"default_language": "en_XX", "languages": ["en_XX", "de_DE"]}
_NEMOTRON_H: Final = {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "n_groups": 2,
}
_CODEC: Final = {"num_filters": 4, "downsampling_ratios": [2, 2], "depths": [1, 1, 1], "hidden_size": 16}
_XMAMBA: Final = {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "num_hidden_layers": 4}
_DOTS3_NOTE: Final = {
    "first_k_dense_replace": 1,
    "sliding_window": 16,
    "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
    **{f"swa_{k}": v for k, v in _same(4, "num_attention_heads num_key_value_heads").items()},
    **{f"swa_{k}": v for k, v in _same(8, "qk_nope_head_dim v_head_dim").items()},
    "swa_head_dim": 16,
    "swa_q_lora_rank": 20,
    "swa_kv_lora_rank": 16,
    "head_dim": 16,
}
_QWEN4: Final = {"layer_types": ["linear_attention", "indexed_attention", "linear_attention"]} | {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "hc_lowrank": 8,
}

# What a type needs beyond the generic recipe. Values of a nested config's name are dicts. A key "task:model_type" adds to
# the type's own. Reasons are those that the failing type gave.
QUIRKS: Final[dict[str, dict[str, Any]]] = {
    # Hybrids: by default no attention layer falls within so few layers, and the cache wants one.
    "bailing_hybrid": {"layer_types": _LINEAR_AND_FULL},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": _LINEAR_AND_FULL},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": _LINEAR_AND_FULL},
    "qwen3_next": {"layer_types": _LINEAR_AND_FULL},
    "qwen3_5": {"text_config": {"layer_types": _LINEAR_AND_FULL}},
    "qwen3_5_text": {"layer_types": _LINEAR_AND_FULL},
    "qwen3_5_moe": {"text_config": {"layer_types": _LINEAR_AND_FULL}},
    "qwen3_5_moe_text": {"layer_types": _LINEAR_AND_FULL},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "nemotron_h": _NEMOTRON_H,
    "zamba": _XMAMBA | {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": _XMAMBA | {"n_mamba_heads": 4, "mamba_ngroups": 1, "chunk_size": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    # Mixtures of experts that would have none in so few layers, or hundreds that compute nothing.
    "longcat_flash": {"zero_expert_num": 2},
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "beam": {"mlp_layer_types": ["dense", "sparse", "sparse"]},
    # Dimensions that must agree with one another, or with the number of layers.
    "falcon_h1": {"mamba_d_ssm": 64},
    "funnel": {"block_sizes": [2, 1]},
    "blt": {
        "encoder_config": _BLT_LOCAL | {"num_hidden_layers": 1},
        "decoder_config": _BLT_LOCAL,
        "global_config": {"hidden_size": 64, "num_hidden_layers": 2},
        "patcher_config": {"num_hidden_layers": 4},
        "encoder_hash_byte_group_vocab": 50,
    },
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "rope_theta": 10000.0, "kv_n_heads": 2},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": EXPERTS, "moe_top_k": 2},
    },
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0},
    "nemo_speechlm": {
        "text_config": _NEMOTRON_H,
        "word_timestamp_config": {"num_key_value_heads": 4},  # queries, keys and values are stored as one and cut in three
        "audio_config": {"diarization_config": {"head_config": {"audio_hidden_size": 16, "hidden_size": 12}}},
    },
    "squeezebert": {"embedding_size": HIDDEN},
    "esmc": {"num_key_value_heads": 4},
    "neomme": {"head_dim": 16, "patch_size": 4},
    "reformer": _REFORMER,
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
    "dots3_note": {
        "text_config": _DOTS3_NOTE,
        "vision_config": {"pyramid_num_routed": [-1, -1, 4, 6], "adapter_in_dim": 16, "adapter_out_dim": HIDDEN},
        "audio_config": {"adapter_input_size": 16, "adapter_out_dim": HIDDEN, "downsample_hidden_size": 8},
    },
    "dots3_note_text": _DOTS3_NOTE,
    "led": {"attention_window": 4},
    "longformer": {"attention_window": 4},
    # Fields whose default is None, or missing where the model reads them.
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "esm": _ESM,
    "xmod": _XMOD,
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    # Layers that share keys and values need a producer of each kind before them.
    "gemma3n_text": _GEMMA_SHARING,
    "gemma3n": {"text_config": _GEMMA_SHARING},
    "gemma4_assistant": _GEMMA4_ASSISTANT,
    "gemma4_unified_assistant": _GEMMA4_ASSISTANT,
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_text": _GEMMA4,
    "gemma4_unified": {"text_config": _GEMMA4, "audio_config": {"audio_embed_dim": 16}},
    "gemma4_unified_text": _GEMMA4,
    # What is usual, but not the default: causal attention, cross attention.
    "causal:xlm": {"causal": True},
    "encoder-decoder": {"decoder": {"is_decoder": True, "add_cross_attention": True}},
    # Large where nobody looks: hash tables, second vocabularies, convolution stems.
    "luke": {"entity_vocab_size": 50, "entity_emb_size": 12},
    "perceiver": {"num_latents": 8, "d_latents": 24, "num_self_attends_per_block": 3, "num_self_attention_heads": 4}
    | {"num_cross_attention_heads": 4},
    "roc_bert": {"pronunciation_vocab_size": 50, "shape_vocab_size": 50} | _same(12, "pronunciation_embed_dim shape_embed_dim"),
    "rembert": {"input_embedding_size": 20, "output_embedding_size": 40},
    "mobilebert": {"intra_bottleneck_size": 16, "embedding_size": 20},
    "granite_speech": _GRANITE_SPEECH,
    "granite_speech_plus": _GRANITE_SPEECH,
    "vibevoice_asr": {"acoustic_tokenizer_encoder_config": _CODEC, "semantic_tokenizer_encoder_config": _CODEC},
}

# Types that this transformers cannot build here, with the reason.
KNOWN_FAILURES: Final[dict[str, str]] = {
    "gemma3n": "its vision tower wants timm and pillow; gemma3n_text is in the zoo",
    "gemma4_assistant": "transformers 5.23 wants every layer to share keys and values, and refuses when no layer makes them",
    "gemma4_unified_assistant": "as gemma4_assistant",
}


def _role(key: str) -> Mapping[str, Any]:
    """Return the sizes for a nested config by the name of its field."""
    if any(word in key for word in ("vision", "image", "backbone")):
        return VISION
    if any(word in key for word in ("audio", "speech", "acoustic", "semantic", "asr_config", "projector_config")):
        return AUDIO
    return DECODER if key == "decoder" else TEXT


def _special_ids(cls: type[PretrainedConfig]) -> dict[str, int]:
    """Return the token ids outside the tiny vocabulary, moved to its upper end (inputs stay below them)."""
    names = [
        f.name for f in fields(cls) if f.name.endswith(("token_id", "token_index")) and isinstance(f.default, int) and f.default >= VOCAB
    ]
    return {name: VOCAB - 1 - i for i, name in enumerate(names)}


def tiny(cls: type[PretrainedConfig], quirks: Mapping[str, Any], role: Mapping[str, Any] = TEXT) -> PretrainedConfig:
    """Return a small config: the role's sizes for the fields that the class has, nested configs likewise, then the quirks."""
    known = {f.name: f.default for f in fields(cls)}
    kwargs = _special_ids(cls) | {
        name: value for name, value in role.items() if name in known and (known[name] is not None or name in EVEN_IF_NONE)
    }
    if "kv_lora_rank" in known and "num_key_value_heads" in kwargs:  # latent attention has one key per query head
        kwargs["num_key_value_heads"] = role["num_attention_heads"]
    nested = {key: _nested(key, spec, dict(quirks.get(key, {}))) for key, spec in cls.sub_configs_defaults.items()}
    return cls(**kwargs | nested | {k: v for k, v in quirks.items() if k not in nested})


def _nested(key: str, spec: SubConfigSpec, quirks: dict[str, Any]) -> PretrainedConfig:
    role = _role(key)
    cls = spec.config_class if issubclass(spec.config_class, PretrainedConfig) else CONFIG_MAPPING[spec.model_type]
    return tiny(cls, {k: v for k, v in spec.init_kwargs.items() if k not in role} | quirks, role)


def quirks_of(task: str, model_type: str) -> dict[str, Any]:
    """Return what the type needs beyond the generic recipe, for this task; a copy, since configs change their lists."""
    return deepcopy(QUIRKS.get(model_type, {}) | QUIRKS.get(f"{task}:{model_type}", {}))
