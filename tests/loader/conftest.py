"""Checkpoints that are too large to be made anew for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers


@pytest.fixture(scope="session")
def llama_84mb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 84 MB in bfloat16, its layers 6.5 MB each."""
    out = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=4
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    return out
