"""Strategies that fit: on machines whose free memory is declared, with plans of the embedded model (1,249,280 bytes)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mlload
from mlload import LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.execution.backends import Cuda, Device, Hardware
from mlload.loader.fitting import fit
from mlload.loader.loading import load, plan_load
from mlload.loader.planned import PlannedLoad

FULL, STREAMING = LoadingStrategy.FULL, LoadingStrategy.STREAMING
NF4 = QuantizationConfig(QuantizationMethod.BNB_NF4)


def fitted(free_bytes: int, **settings: object) -> PlannedLoad:
    draft = plan_load(ModelLoadingConfig("tiny", device="cpu", **settings))  # pyright: ignore[reportArgumentType]
    return fit([replace(draft, hardware=Hardware(cores=2, free_bytes=free_bytes))])[0]


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


TWO_GPUS = Hardware(cores=8, free_bytes=1 << 40, cuda=(Device("A", 10**6, 10**6), Device("B", 10**6, 10**6)))


def on_cuda(hardware: Hardware, device: str = "cuda", dtype: str = "auto", **settings: object) -> PlannedLoad:
    """As on a machine with these CUDA devices."""
    draft = plan_load(ModelLoadingConfig("tiny", device="cpu", dtype=dtype))
    asked = replace(draft.settings, device=device, **settings)  # pyright: ignore[reportArgumentType]
    return fit([replace(draft, settings=asked, device=torch.device(device), rules=Cuda(), hardware=hardware)])[0]


def test_a_model_too_large_for_one_device_goes_to_several() -> None:
    load = on_cuda(TWO_GPUS)
    assert load.unit_devices is not None
    assert [str(device) for device in load.unit_devices.values()] == ["cuda:0"] * 5 + ["cuda:1"] * 3
    assert (load.strategy, load.prediction.loaded.device) == (FULL, 1_249_280)


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        ({"max_memory": {0: 300_000, 1: "1200kB"}}, ["cuda:0"] * 2 + ["cuda:1"] * 6),
        ({"memory": "1400kB"}, ["cuda:0"] * 5 + ["cuda:1"] * 3),
        ({"memory": "1MB"}, None),
        ({"dtype": "float32"}, None),
    ],
    ids=str,
)
def test_each_device_takes_what_it_may(settings: dict[str, object], devices: list[str] | None) -> None:
    load = on_cuda(TWO_GPUS, **settings)
    assert (load.strategy is STREAMING) == (devices is None)
    assert devices == (load.unit_devices and [str(device) for device in load.unit_devices.values()])


def test_one_device_that_was_asked_for_is_not_left() -> None:
    load = on_cuda(TWO_GPUS, "cuda:1")
    assert (load.unit_devices, load.strategy, load.resident) == (None, STREAMING, 900_000)


def test_weights_that_stay_on_the_host_are_streamed_two_units_at_a_time() -> None:
    layer = 197_120
    assert on_cuda(TWO_GPUS, offload_to_cpu=True).resident == 2 * layer
    assert on_cuda(TWO_GPUS, offload_to_cpu=True, max_memory={0: 200_000}).resident == 200_000
    assert fitted(2_000_000, offload_to_cpu=True).strategy is FULL  # on a CPU they are there already


def test_a_model_on_several_devices_computes_through_accelerates_hooks() -> None:
    planned = plan_load(ModelLoadingConfig("tiny", device="cpu"))
    model = replace(planned, unit_devices={unit.name: torch.device("cpu") for unit in planned.plan.units}).execute().model
    assert set(model.hf_device_map) >= {unit.name for unit in planned.plan.units} | {"lm_head", "model.rotary_emb"}
    ids = torch.arange(8)[None]
    assert torch.equal(model(ids).logits, load(ModelLoadingConfig("tiny", device="cpu")).model(ids).logits)


@pytest.mark.filterwarnings("default")  # of bitsandbytes
def test_what_is_quantized_can_not_be_streamed() -> None:
    with pytest.raises(mlload.DoesNotFitError, match=r"more than the 87\.9 KiB that are free; --strategy full loads all the same"):
        fitted(100_000, quantization_config=NF4)
    with pytest.raises(mlload.DoesNotFitError, match="that may be taken; allow"):
        fitted(10_000_000, quantization_config=NF4, memory="100 kB")
