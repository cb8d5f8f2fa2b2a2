"""Small random checkpoints that transformers writes and mlx-lm has a class for, one of each kind of conversion."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

SIZES = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "llama3": lambda: transformers.LlamaConfig(
        **GROUPED,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        },
    ),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED, tie_word_embeddings=True),  # written without what mlx-lm has other defaults for
    "gemma2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=16),
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4),  # its experts are stacked
    "phi3": lambda: transformers.Phi3Config(**GROUPED, pad_token_id=0),
}


def write_model(folder: Path, name: str) -> Path:
    """The model of that name in `folder`, in bfloat16 and two or more shards."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder
