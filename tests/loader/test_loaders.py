"""The examples of the loading abstraction, run: loaders, factories, and one call for model and tokenizer."""

from __future__ import annotations

import pytest
import torch

import mlload
from mlload import (
    Backend,
    LoadingStrategy,
    ModelLoaderFactory,
    ModelLoadingConfig,
    QuantizationConfig,
    QuantizationMethod,
    load_model_and_tokenizer,
)


def test_one_call_gives_model_and_tokenizer() -> None:
    model, tokenizer = load_model_and_tokenizer("tiny", backend="cpu", low_memory=True, rank=0, world_size=1)
    assert model(tokenizer("A shard", return_tensors="pt").input_ids).logits.shape == (1, 7, 259)


def test_several_models_in_one_call() -> None:
    (first, _), (second, _) = load_model_and_tokenizer(["tiny", "tiny"], backend="cpu")
    assert torch.equal(first.get_parameter("model.norm.weight"), second.get_parameter("model.norm.weight"))


def test_several_models_share_one_memory() -> None:
    pairs = load_model_and_tokenizer(["tiny", "tiny"], backend="cpu", memory="1600kB")  # of twice 1,249,280 bytes
    logits = [model(tokenizer("A shard", return_tensors="pt").input_ids).logits for model, tokenizer in pairs]
    assert torch.equal(*logits)
    with pytest.raises(mlload.DoesNotFitError, match="tiny, tiny together take at least 385 KiB, streamed: 190 KiB more than the 195 KiB"):
        load_model_and_tokenizer(["tiny", "tiny"], backend="cpu", memory=200_000)


def test_quantized_loader_from_the_factory() -> None:
    quantization = QuantizationConfig(method=QuantizationMethod.BNB_NF4, bits=4, compute_dtype=torch.bfloat16)
    config = ModelLoadingConfig(
        model_name="tiny", backend=Backend.CPU, quantization_config=quantization, low_memory=True, loading_workers=4
    )
    loader = ModelLoaderFactory.create_loader(config)
    assert type(loader) is mlload.CPUModelLoader
    model = loader.load_model()
    assert type(model.get_submodule("model.layers.0.mlp.up_proj")).__name__ == "Linear4bit"
    assert loader.load_tokenizer()("A").input_ids
    assert config.loading_strategy is LoadingStrategy.LOW_MEMORY


def test_unified_memory_is_apples_default() -> None:
    assert ModelLoadingConfig("tiny", Backend.MPS).loading_strategy is LoadingStrategy.UNIFIED_MEMORY


def test_a_custom_loader_starts_from_the_empty_model() -> None:
    class Custom(mlload.QuantizedModelLoader):
        def load_model(self):
            return self._create_empty_model()

    assert Custom(ModelLoadingConfig("tiny")).load_model().device.type == "meta"


@pytest.mark.parametrize("backend", ["cuda", "mps"])
def test_a_backend_that_is_not_there(backend: str) -> None:
    if backend == "cuda" and torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(mlload.DoesNotFitError, match=backend):
        load_model_and_tokenizer("tiny", backend=backend)


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(mlload.UsageError, match="did you mean 'loading_workers'"):
        load_model_and_tokenizer("tiny", loading_worker=3)
