"""NF4 and FP4, bit by bit beside bitsandbytes."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.functional import QuantState, get_4bit_type, quantize_4bit
from hard_weights import DTYPES, KINDS, hard, same_bits
from torch import Tensor

from mlload.loader.quantization import four_bit

SHAPES = [(1, 64), (3, 64), (5, 7), (1, 1), (33, 129), (256, 300), (1, 4096), (64, 1000)]
both = pytest.mark.parametrize("use_numba", [False, True], ids=["torch", "numba"])
types = pytest.mark.parametrize("quant_type", ["nf4", "fp4"])


def is_the_librarys(weight: Tensor, *, quant_type: str, blocksize: int = 64, use_numba: bool) -> bool:
    packed, absmax = four_bit.quantize(weight, quant_type=quant_type, blocksize=blocksize, use_numba=use_numba)
    expected, state = quantize_4bit(weight, quant_type=quant_type, blocksize=blocksize)
    return same_bits(packed, expected) and same_bits(absmax, state.absmax)


@both
@types
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_hard_values(kind: str, dtype: str, quant_type: str, use_numba: bool) -> None:
    assert is_the_librarys(hard(kind, (40, 130)).to(DTYPES[dtype]), quant_type=quant_type, use_numba=use_numba)


@both
@pytest.mark.parametrize("blocksize", [32, 64, 128, 256, 4096])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_blocks(shape: tuple[int, int], blocksize: int, use_numba: bool) -> None:
    assert is_the_librarys(hard("normal", shape), quant_type="nf4", blocksize=blocksize, use_numba=use_numba)


@both
@types
def test_values_at_the_thresholds_and_next_to_them(quant_type: str, use_numba: bool) -> None:
    values = get_4bit_type(quant_type, device="cpu").sort().values
    ties = (values[1:] + values[:-1]) / 2
    beside = [torch.nextafter(ties, torch.tensor(side)) for side in (-2.0, 2.0)]
    block = torch.cat([torch.ones(1), ties, *beside, torch.zeros(18)])
    assert is_the_librarys(torch.stack([block, -block, block * 3, block / 7]), quant_type=quant_type, use_numba=use_numba)


@both
def test_a_view_that_is_not_contiguous(use_numba: bool) -> None:
    assert is_the_librarys(hard("normal", (128, 96)).t(), quant_type="nf4", use_numba=use_numba)


@both
def test_threads_change_nothing(use_numba: bool) -> None:
    weight = hard("normal", (300, 1000))
    alone, shared = (four_bit.quantize(weight, quant_type="nf4", use_numba=use_numba, threads=threads) for threads in (1, 3))
    assert same_bits(alone[0], shared[0])
    assert same_bits(alone[1], shared[1])


def tensors(state: QuantState) -> list[Tensor]:
    nested = [] if state.state2 is None or state.offset is None else [state.offset, *tensors(state.state2)]
    return [state.absmax, state.code, *nested]


@types
@pytest.mark.parametrize("double_quant", [False, True])
def test_the_state_is_the_librarys(quant_type: str, double_quant: bool) -> None:
    weight = hard("normal", (129, 640)).bfloat16()
    _, expected = quantize_4bit(weight, quant_type=quant_type, compress_statistics=double_quant)
    _, absmax = four_bit.quantize(weight, quant_type=quant_type)
    state = four_bit.quant_state(
        absmax, quant_type=quant_type, blocksize=64, shape=weight.shape, dtype=weight.dtype, double_quant=double_quant
    )
    assert [same_bits(*pair) for pair in zip(tensors(state), tensors(expected), strict=True)] == [True] * (5 if double_quant else 2)
    assert state.as_dict(packed=True).keys() == expected.as_dict(packed=True).keys()
    assert (state.shape, state.dtype, state.nested) == (expected.shape, expected.dtype, expected.nested)
