"""What is promised of memory, measured from outside the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from peak import peak

MIB = 1 << 20
SLACK = 12 * MIB  # what the interpreter, torch's threads and the forward take meanwhile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 84 MB in bfloat16, its layers 6.5 MB each."""
    out = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=4
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    return out


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_exceeds_max_memory_is_left_on_the_files(folder: Path, dtype: str) -> None:
    seen = peak(folder, device="cpu", dtype=dtype, max_memory={"cpu": "24MiB"})
    assert seen.told["strategy"] == "streaming"
    assert seen.pages + max(0, seen.anonymous - SLACK) <= 24 * MIB


def test_without_a_limit_there_is_all_of_it(folder: Path) -> None:
    seen = peak(folder, device="cpu", dtype="float32", loading_strategy="full")
    assert seen.anonymous > 140 * MIB  # so that the limits above are no accident
