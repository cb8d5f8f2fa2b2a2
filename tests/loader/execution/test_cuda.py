"""Loading to a CUDA device, where there is one: the model that transformers would load there, in the memory that was predicted."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor

from mlload import LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.loading import load
from mlload.loader.planned import LoadedModel
from mlload.loader.sources.download import local_folder

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # of bitsandbytes
]
TINY = local_folder(Checkpoint.open("tiny"))
BUDGET = 400_000  # bytes of streamed weights
IDS = torch.arange(8)[None]
WAYS: dict[str, dict[str, object]] = {
    "full": {},
    "float32": {"dtype": "float32"},
    "low memory": {"loading_strategy": LoadingStrategy.LOW_MEMORY},
    "streamed": {"resident": BUDGET},
    "left on the host": {"offload_to_cpu": True},
    "read, not mapped": {"mmap": False},
}
BITSANDBYTES = {
    QuantizationMethod.BNB_NF4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    QuantizationMethod.BNB_INT8: {"load_in_8bit": True},
}
SLACK = 2 << 20  # blocks of torch's allocator


def on_device(**settings: object) -> LoadedModel:
    return load(ModelLoadingConfig("tiny", device=DEVICE, **settings))  # pyright: ignore[reportArgumentType]


def from_pretrained(**settings: object) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(TINY, device_map=DEVICE, **settings)


@torch.no_grad()
def logits(model: transformers.PreTrainedModel) -> Tensor:
    return model(IDS.to(DEVICE)).logits


@pytest.mark.parametrize("way", WAYS)
def test_logits_are_those_of_from_pretrained(way: str) -> None:
    loaded = on_device(**WAYS[way])
    assert torch.equal(logits(loaded.model), logits(from_pretrained(dtype=WAYS[way].get("dtype", "auto"))))


@pytest.mark.parametrize("method", BITSANDBYTES)
def test_quantized_weights_are_transformers_own(method: QuantizationMethod) -> None:
    ours = on_device(quantization_config=QuantizationConfig(method), quantized_cache="off").model
    theirs = from_pretrained(dtype="auto", quantization_config=transformers.BitsAndBytesConfig(**BITSANDBYTES[method]))
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert torch.equal(logits(ours), logits(theirs))


@pytest.mark.parametrize("method", [*BITSANDBYTES, QuantizationMethod.HQQ])
def test_quantized_weights_are_streamed_in_their_budget(method: QuantizationMethod) -> None:
    asked = {"quantization_config": QuantizationConfig(method), "quantized_cache": "on"}
    whole = on_device(**asked).model
    torch.cuda.synchronize()
    expected, before = logits(whole), torch.cuda.memory_allocated()
    streamed = on_device(**asked, resident=BUDGET).model
    for _ in range(2):
        assert torch.equal(logits(streamed), expected)
    assert torch.cuda.memory_allocated() - before <= BUDGET + SLACK


def test_hqq_computes_on_the_device() -> None:
    asked = QuantizationConfig(QuantizationMethod.HQQ, bits=8)
    ours = on_device(quantization_config=asked, quantized_cache="off").model
    torch.testing.assert_close(logits(ours), logits(from_pretrained(dtype="auto")), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("way", ["full", "float32", "low memory"])
def test_the_device_holds_what_was_predicted(way: str) -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loaded = on_device(**WAYS[way])
    assert abs(torch.cuda.memory_allocated() - before - loaded.prediction.loaded.device) <= SLACK
    assert torch.cuda.max_memory_allocated() - before <= loaded.prediction.peak.device + SLACK
    assert {parameter.device.type for parameter in loaded.model.parameters()} == {DEVICE}
