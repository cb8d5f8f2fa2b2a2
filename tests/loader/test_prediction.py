"""Predicted memory beside the bytes of what is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlload import ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.loading import load

pytestmark = pytest.mark.filterwarnings("default")  # of bitsandbytes


def tensors(value: object, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that hangs from a module, be it in a parameter's state, a scale's state or a dictionary."""
    if id(value) in seen or isinstance(value, torch.dtype | torch.device | type):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    parts = value.values() if isinstance(value, dict) else getattr(value, "__dict__", {}).values()
    for part in list(parts):
        yield from tensors(part, seen)


def real_bytes(model: torch.nn.Module) -> int:
    places = {tensor.data_ptr(): tensor.nbytes for tensor in tensors(model, set())}
    return sum(places.values())


@pytest.mark.parametrize(
    ("method", "settings", "transient"),
    [
        ("nf4", {}, 2),
        ("nf4", {"double_quant": True}, 2),
        ("nf4", {"quant_storage": torch.bfloat16}, 2),
        ("fp4", {}, 2),
        ("int8", {}, 2),
        ("hqq", {"bits": 4}, 1 + 21 * 4 / 64),
        ("hqq", {"bits": 8, "axis": 0}, 4),
        ("hqq", {"bits": 3, "group_size": 32}, 6),
    ],
    ids=str,
)
def test_what_stays_after_quantizing(llama_23mb: Path, method: str, settings: dict[str, object], transient: float) -> None:
    """`transient`: bytes a weight."""
    asked = QuantizationConfig(QuantizationMethod(method), **settings)  # pyright: ignore[reportArgumentType]
    loaded = load(ModelLoadingConfig(llama_23mb, device="cpu", loading_workers=2, quantization_config=asked))
    predicted, peak = loaded.prediction.loaded, loaded.prediction.peak
    assert predicted.anonymous + predicted.mapped == pytest.approx(real_bytes(loaded.model), rel=0.03)
    assert peak.anonymous - predicted.anonymous == 2 * 1536 * 512 * transient  # two of the largest matrices in flight
