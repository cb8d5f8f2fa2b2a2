"""Checkpoints that are too large to be made anew for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers


@pytest.fixture(scope="session")
def llama_84mb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama in bfloat16, its twelve layers 6.5 MB each."""
    return _llama(tmp_path_factory.mktemp("llama"), layers=12)


@pytest.fixture(scope="session")
def llama_23mb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three layers."""
    return _llama(tmp_path_factory.mktemp("llama"), layers=3)


def _llama(out: Path, *, layers: int) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=4
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    return out
