"""Strategies that fit: on machines whose free memory is declared, with plans of the embedded model (1,249,280 bytes)."""

from __future__ import annotations

from dataclasses import replace

import pytest

import mlload
from mlload import LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.fitting import fit
from mlload.loader.loading import plan_load
from mlload.loader.planned import PlannedLoad

FULL, STREAMING = LoadingStrategy.FULL, LoadingStrategy.STREAMING
NF4 = QuantizationConfig(QuantizationMethod.BNB_NF4)


def fitted(free_bytes: int, **settings: object) -> PlannedLoad:
    draft = plan_load(ModelLoadingConfig("tiny", device="cpu", **settings))  # pyright: ignore[reportArgumentType]
    return fit([replace(draft, free_bytes=free_bytes)])[0]


@pytest.mark.parametrize(
    ("free_bytes", "settings", "strategy", "resident"),
    [
        (2_000_000, {}, FULL, None),
        (1_000_000, {}, STREAMING, 900_000),
        (2_000_000, {"dtype": "float32"}, STREAMING, 1_800_000),
        (300_000, {"loading_strategy": "full"}, FULL, None),
        (300_000, {"resident": 250_000}, STREAMING, 250_000),
        (300_000, {"loading_strategy": "streaming"}, STREAMING, None),
        (300_000, {"low_memory": True, "rank": 1, "world_size": 2, "memory": 1}, LoadingStrategy.LOW_MEMORY, None),
    ],
    ids=str,
)
def test_what_does_not_fit_is_streamed_unless_it_is_told_how_to_load(
    free_bytes: int, settings: dict[str, object], strategy: LoadingStrategy, resident: int | None
) -> None:
    load = fitted(free_bytes, **settings)
    assert (load.strategy, load.resident) == (strategy, resident)


@pytest.mark.filterwarnings("default")  # of bitsandbytes
def test_what_is_quantized_can_not_be_streamed() -> None:
    with pytest.raises(mlload.DoesNotFitError, match=r"more than the 87\.9 KiB that are free; --strategy full loads all the same"):
        fitted(100_000, quantization_config=NF4)
    with pytest.raises(mlload.DoesNotFitError, match="that may be taken; allow"):
        fitted(10_000_000, quantization_config=NF4, memory="100 kB")
