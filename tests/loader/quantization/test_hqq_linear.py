"""Our HQQLinear beside the library's."""

from __future__ import annotations

import pytest
import torch
from hard_weights import hard, same_bits
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from torch import nn

from mlload.loader.quantization.hqq_linear import quantized_linear


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"nbits": 4, "group_size": 64, "axis": 1},
        {"nbits": 3, "group_size": 64, "axis": 0},
        {"nbits": 8, "group_size": None, "axis": 1},
        {"nbits": 4, "group_size": None, "axis": 0},
        {"nbits": 4, "group_size": 64, "axis": 1, "view_as_float": True},
    ],
    ids=str,
)
def test_layer_is_the_librarys(settings: dict[str, object], compute_dtype: torch.dtype) -> None:
    linear = nn.Linear(192, 128)
    linear.weight.data = hard("outliers", (128, 192)).bfloat16()
    config = BaseQuantizeConfig(**settings)
    layer = quantized_linear(linear.weight.data, linear.bias, config, compute_dtype=compute_dtype)
    expected = HQQLinear(linear, config, compute_dtype=compute_dtype, device="cpu")
    state, reference = layer.state_dict(), expected.state_dict()
    assert {name: type(value) for name, value in state.items()} == {name: type(value) for name, value in reference.items()}
    assert [name for name in state if isinstance(state[name], torch.Tensor) and not same_bits(state[name].data, reference[name].data)] == []
    assert layer.meta.keys() == expected.meta.keys()
    assert (layer.quant_config, str(layer)) == (expected.quant_config, str(expected))
    hidden = hard("normal", (3, 192)).to(compute_dtype)
    assert torch.equal(layer(hidden), expected(hidden))
