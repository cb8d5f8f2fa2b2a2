"""INT8 by rows, bit by bit beside bitsandbytes' own parameter."""

from __future__ import annotations

import pytest
from bitsandbytes.nn import Int8Params
from hard_weights import DTYPES, KINDS, hard, same_bits

from mlload.loader.quantization import int8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (300, 257), (3, 40_000)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_row_maxima_are_the_librarys(kind: str, shape: tuple[int, int], dtype: str) -> None:
    weight = hard(kind, shape).to(DTYPES[dtype])
    expected = Int8Params(weight.clone(), requires_grad=False).to("cpu")
    codes, absmax = int8.quantize(weight)
    assert same_bits(codes, expected.data)
    assert same_bits(absmax, expected.SCB)
