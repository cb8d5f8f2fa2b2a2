"""Quantizing while loading: tensor for tensor what transformers' own quantized load gives, and what it saves loads again."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers
from bitsandbytes.nn import Params4bit
from transformers import BitsAndBytesConfig, LlamaConfig, PreTrainedModel

import mlload
from mlload import ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.loading import load

# Warnings of the libraries about each other's newer and older ways.
pytestmark = pytest.mark.filterwarnings("default")

METHODS = {
    "nf4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {}),
    "nf4 double": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        {"method": QuantizationMethod.BNB_NF4, "double_quant": True},
    ),
    "nf4 stored as bfloat16": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": torch.bfloat16},
        {"method": QuantizationMethod.BNB_NF4, "quant_storage": torch.bfloat16},
    ),
    "fp4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, {}),
    "int8": ({"load_in_8bit": True}, {}),
}
MODELS = {
    "llama": LlamaConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=99),
    "gpt2": transformers.GPT2Config(n_embd=128, n_layer=2, n_head=4, vocab_size=99, n_positions=64),
    "t5": transformers.T5Config(d_model=128, d_ff=256, d_kv=32, num_layers=2, num_heads=4, vocab_size=99),
}


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    config = MODELS[request.param]
    torch.manual_seed(0)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    kind.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    return out


def differing(one: PreTrainedModel, other: PreTrainedModel) -> list[str]:
    wanted, got = one.state_dict(), other.state_dict()
    assert list(wanted) == list(got)
    return [name for name, tensor in wanted.items() if bits(tensor) != bits(got[name])]


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """All of a tensor: packed weights kept as bfloat16 may be no numbers, which differ from themselves."""
    return tensor.dtype, tensor.shape, tensor.contiguous().view(torch.uint8).numpy().tobytes()


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(20, 28)[None]
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **extra).logits


def theirs_and_ours(folder: Path, name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    theirs, ours = METHODS[name]
    asked = QuantizationConfig(**(ours or {"method": QuantizationMethod(name)}))
    model_class = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
    wanted = model_class.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**theirs), device_map="cpu")
    return wanted, load(ModelLoadingConfig(folder, device="cpu", quantization_config=asked)).model


@pytest.mark.parametrize("name", list(METHODS))
def test_the_model_is_transformers_own(folder: Path, name: str, tmp_path: Path) -> None:
    wanted, got = theirs_and_ours(folder, name)
    assert differing(wanted, got) == []
    assert (got.is_quantized, got.quantization_method) == (True, wanted.quantization_method)
    got.save_pretrained(tmp_path / "saved")
    again = load(ModelLoadingConfig(tmp_path / "saved", device="cpu")).model
    assert differing(wanted, again) == []
    assert torch.equal(logits(wanted), logits(got))
    assert torch.equal(logits(type(got).from_pretrained(tmp_path / "saved", device_map="cpu")), logits(again))


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (QuantizationConfig(QuantizationMethod.BNB_NF4, bits=8), mlload.UsageError, "nf4 has 4 bits, not 8"),
        (QuantizationConfig(QuantizationMethod.BNB_INT8, bits=4), mlload.UsageError, "int8 has 8 bits, not 4"),
    ],
)
def test_what_a_method_does_not_have(asked: QuantizationConfig, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(ModelLoadingConfig("tiny", quantization_config=asked))


def test_modules_that_are_skipped_stay_as_they_are() -> None:
    asked = QuantizationConfig(QuantizationMethod.BNB_NF4, skip_modules=("v_proj", "model.layers.1"), compute_dtype="bfloat16")
    model = load(ModelLoadingConfig("tiny", quantization_config=asked)).model
    assert type(model.get_submodule("lm_head")) is torch.nn.Linear
    assert type(model.get_submodule("model.layers.1.mlp.up_proj")) is torch.nn.Linear
    assert type(model.get_submodule("model.layers.0.self_attn.v_proj")) is torch.nn.Linear
    assert type(model.get_submodule("model.layers.0.self_attn.q_proj")) is not torch.nn.Linear


@pytest.mark.parametrize("method", [method for method in METHODS if method != "int8"])
def test_the_first_forward_leaves_what_the_library_would_leave(folder: Path, method: str) -> None:
    theirs, ours = theirs_and_ours(folder, method)
    copied = copy.deepcopy(ours)
    assert torch.equal(logits(ours), logits(theirs))
    assert torch.equal(logits(copied), logits(theirs))
    found = dict(ours.named_parameters())
    for name, wanted in theirs.named_parameters():
        assert bits(wanted.data) == bits(found[name].data), name
        states = [getattr(getattr(parameter, "quant_state", None), "__dict__", {}) for parameter in (wanted, found[name])]
        for key in states[0].keys() | states[1].keys():
            one, other = (state.get(key, "missing") for state in states)
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, (name, key)
    assert not differing(theirs, ours), "what is saved is in its first order"
    assert not any(module._forward_pre_hooks for module in (*ours.modules(), *copied.modules()))


def test_a_model_that_is_trained_is_left_as_it_is(folder: Path) -> None:
    _, model = theirs_and_ours(folder, "nf4")
    model.train()
    quantized = [parameter for parameter in model.parameters() if isinstance(parameter, Params4bit)]
    before = [weight.data_ptr() for weight in quantized]
    logits(model)
    assert before == [weight.data_ptr() for weight in quantized] != []


def test_a_model_that_has_not_computed_yet_can_be_kept_whole_and_compiled(folder: Path, tmp_path: Path) -> None:
    theirs, ours = theirs_and_ours(folder, "nf4")
    torch.save(ours, tmp_path / "model")
    again = torch.load(tmp_path / "model", weights_only=False)
    assert torch.equal(logits(again), logits(theirs))
    assert torch.equal(logits(ours), logits(again))
