"""The plan from headers alone beside the one that is made of transformers' classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlload import Checkpoint, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.loading import plan_load
from mlload.loader.memory import predict
from mlload.loader.recommend.sketch import parts_of, sketch

pytestmark = pytest.mark.filterwarnings("default")  # of bitsandbytes


def predictions(folder: Path, dtype: str, quantization: QuantizationConfig | None = None) -> tuple[object, object]:
    checkpoint = Checkpoint.open(folder)
    settings = ModelLoadingConfig(folder, device="cpu", dtype=dtype, quantization_config=quantization, loading_strategy="full")  # pyright: ignore[reportArgumentType]
    made = plan_load(settings, checkpoint=checkpoint).plan
    drawn = sketch(parts_of(checkpoint), dtype, quantization)
    return tuple(predict(each, on_device=False, mapped=True, workers=2) for each in (made, drawn))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
def test_the_same_prediction_as_the_real_plans(llama_23mb: Path, dtype: str) -> None:
    made, drawn = predictions(llama_23mb, dtype)
    assert made == drawn


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("nf4", {}),
        ("nf4", {"double_quant": True}),
        ("int8", {}),
        ("hqq", {"bits": 8}),
        ("hqq", {"bits": 4}),
        ("hqq", {"bits": 3}),
        ("hqq", {"bits": 2, "group_size": 32}),
        ("nf4", {"skip_modules": ("model.layers.0", "v_proj")}),
    ],
    ids=str,
)
def test_the_same_of_quantized_weights(llama_23mb: Path, method: str, settings: dict[str, object]) -> None:
    made, drawn = predictions(llama_23mb, "bfloat16", QuantizationConfig(QuantizationMethod(method), **settings))  # pyright: ignore[reportArgumentType]
    assert made == drawn


TYPES = (
    "causal-llama causal-qwen3_moe causal-mixtral causal-gemma2 causal-gpt2 causal-deepseek_v3 masked-bert seq2seq-t5 seq2seq-bart".split()
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TYPES)
def test_weights_of_many_model_types(zoo: Path, name: str, dtype: str) -> None:
    made, drawn = (each.loaded for each in predictions(zoo / name, dtype))  # pyright: ignore[reportAttributeAccessIssue]
    little = (made.anonymous + made.mapped) // 100  # a few small tensors stay in float32
    assert drawn.anonymous == pytest.approx(made.anonymous, abs=little)
    assert drawn.mapped == pytest.approx(made.mapped, abs=little)
