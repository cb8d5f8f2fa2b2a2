"""A tiny Llama quantized by our kernels beside transformers' own quantized load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hard_weights import same_bits
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig
from transformers.quantizers.auto import AutoHfQuantizer

from mlload.loader.quantization.bitsandbytes import is_quantized, quantized_weight

CONFIGS = {
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp4, twice": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True),
    "nf4 in bfloat16": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_quant_storage=torch.bfloat16),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=128
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def quantized_by_us(folder: Path, config: BitsAndBytesConfig) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    weights = model.state_dict()
    quantizer = AutoHfQuantizer.from_config(config)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"})
    for name, module in model.named_modules():
        if is_quantized(module):
            module.weight = quantized_weight(module, weights[f"{name}.weight"])
    quantizer.postprocess_model(model)
    return model.eval()


@pytest.mark.parametrize("config", CONFIGS)
def test_every_tensor_is_what_transformers_quantizes(config: str, tiny: Path) -> None:
    expected = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16, quantization_config=CONFIGS[config]).state_dict()
    state = quantized_by_us(tiny, CONFIGS[config]).state_dict()
    assert list(state) == list(expected)
    assert [name for name in state if not same_bits(state[name], expected[name])] == []


@pytest.mark.parametrize("config", CONFIGS)
def test_the_parameters_say_the_same_of_themselves(config: str, tiny: Path) -> None:
    expected = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16, quantization_config=CONFIGS[config]).get_submodule(LAYER)
    module = quantized_by_us(tiny, CONFIGS[config]).get_submodule(LAYER)
    assert type(module.weight) is type(expected.weight)
    assert module.weight.__dict__.keys() == expected.weight.__dict__.keys() - {"_is_hf_initialized"}
    hidden = torch.randn(3, 128).bfloat16()
    assert torch.equal(module(hidden), expected(hidden))


LAYER = "model.layers.1.mlp.up_proj"
