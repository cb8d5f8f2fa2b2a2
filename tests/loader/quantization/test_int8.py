"""INT8 by rows, bit by bit beside bitsandbytes' own parameter."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.nn import Int8Params
from hard_weights import DTYPES, KINDS, hard, same_bits

from mlload.loader.quantization import int8


@pytest.mark.parametrize("use_numba", [False, True], ids=["torch", "numba"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (300, 257), (3, 40_000)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_row_maxima_are_the_librarys(kind: str, shape: tuple[int, int], dtype: str, use_numba: bool) -> None:
    weight = hard(kind, shape).to(DTYPES[dtype])
    expected = Int8Params(weight.clone(), requires_grad=False).to("cpu")
    codes, absmax = int8.quantize(weight, use_numba=use_numba)
    assert same_bits(codes, expected.data)
    assert same_bits(absmax, expected.SCB)


@pytest.mark.parametrize("use_numba", [False, True], ids=["torch", "numba"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_between_those_of_float16(dtype: str, use_numba: bool) -> None:
    weight = torch.arange(0x3300_0000, 0x4790_0000, 4099 if dtype == "float32" else 65536, dtype=torch.int32)
    weight = weight.view(torch.float32)[: len(weight) // 96 * 96].view(96, -1).to(DTYPES[dtype])
    weight[:, ::2] *= -1
    expected = Int8Params(weight.clone(), requires_grad=False).to("cpu")
    codes, absmax = int8.quantize(weight, use_numba=use_numba)
    assert same_bits(codes, expected.data)
    assert same_bits(absmax, expected.SCB)


def test_a_view_that_is_not_contiguous_and_threads_that_share() -> None:
    weight = hard("outliers", (700, 900)).t()
    expected = int8.quantize(weight.contiguous(), threads=1)
    assert all(same_bits(*pair) for pair in zip(int8.quantize(weight, use_numba=True, threads=3), expected, strict=True))


@pytest.mark.parametrize("largest", [0x3AFF, 0x3B00, 0x3F80, 0x477F, 0x4780], ids=hex)
def test_all_numbers_of_bfloat16_beside_a_largest(largest: int) -> None:
    bits = torch.arange(largest + 1, dtype=torch.int32).to(torch.int16)
    weight = bits.view(torch.bfloat16).repeat(2, 1)
    weight[1] *= -1
    expected = Int8Params(weight.clone(), requires_grad=False).to("cpu")
    codes, absmax = int8.quantize(weight, use_numba=True)
    assert same_bits(codes, expected.data)
    assert same_bits(absmax, expected.SCB)
