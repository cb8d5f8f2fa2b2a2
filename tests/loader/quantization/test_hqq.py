"""HQQ, bit by bit beside the hqq library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hard_weights import DTYPES, KINDS, hard, same_bits
from hqq.core.quantize import Quantizer

from mlload.loader.quantization import hqq, hqq_at_once

BITS = [8, 4, 3, 2, 1]
axes = pytest.mark.parametrize("axis", [0, 1])


def is_the_librarys(weight: torch.Tensor, **settings: object) -> bool:
    expected, told = Quantizer.quantize(weight, **settings, device="cpu")
    return all(is_equal(hqq.quantize(weight, **settings, use_numba=use_numba), expected, told) for use_numba in (False, True))


def is_equal(quantized: tuple[torch.Tensor, dict[str, object]], expected: torch.Tensor, told: dict[str, object]) -> bool:
    packed, described = quantized
    scales = [(described.pop(key), told[key]) for key in ("scale", "zero")]
    rest = [(key, value) for key, value in told.items() if key not in ("scale", "zero")]
    return all(same_bits(*pair) for pair in [(packed, expected), *scales]) and list(described.items()) == rest


@axes
@pytest.mark.parametrize("nbits", BITS)
@pytest.mark.parametrize("scale", [1, 50, 500])  # of 50, errors begin to be shrunk
def test_bits_and_sizes(nbits: int, scale: int, axis: int) -> None:
    weight = hard("normal", (120, 192)) * scale
    assert is_the_librarys(weight, nbits=nbits, axis=axis, round_zero=nbits == 4)


@axes
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_hard_values(kind: str, dtype: str, axis: int) -> None:
    assert is_the_librarys(hard(kind, (64, 128)).to(DTYPES[dtype]), axis=axis)


@axes
@pytest.mark.parametrize("group_size", [8, 16, 32, 64, 128, None])
@pytest.mark.parametrize("shape", [(2, 128), (48, 320), (30, 1024), (48, 528)], ids=str)
def test_groups(shape: tuple[int, int], group_size: int | None, axis: int) -> None:
    assert is_the_librarys(hard("outliers", shape), group_size=group_size, axis=axis)


@axes
@pytest.mark.parametrize("scale", [1, 100])
def test_a_matrix_that_torch_shares_among_threads(scale: int, axis: int) -> None:
    assert is_the_librarys(hard("normal", (511, 320)) * scale, axis=axis, nbits=8)


# ---- in one compiled pass ----


def at_once(weights: torch.Tensor) -> object:
    return hqq_at_once.quantize(hqq_at_once.Task(weights, 15, False, 20, 1, 2), largest_error=0.16)


def test_ordinary_weights_are_quantized_in_one_pass() -> None:
    assert at_once(hard("normal", (1024, 64))) is not None
    assert at_once(hard("normal", (1024, 64)) * 100) is None  # errors would be shrunk
    assert at_once(hard("normal", (1024, 48))) is None


def test_groups_of_as_many_as_torch_adds_up_at_once() -> None:
    assert is_the_librarys(hard("outliers", (64, 4096)), group_size=512, axis=1)


@pytest.mark.parametrize(("groups", "threads"), [(10, 1), (10, 5), (5_120, 2), (5_120, 5), (300_000, 1)])
def test_sums_are_torchs(groups: int, threads: int) -> None:
    with torch_threads(threads):
        assert hqq_at_once.adds_up_as_torch(groups, threads)
    with torch_threads(1):
        assert hqq_at_once.adds_up_as_torch.__wrapped__(groups, threads)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("scale", [1, 100])
def test_where_torch_has_one_thread_the_bits_are_those_of_many(scale: int) -> None:
    weight = hard("normal", (512, 384)) * scale
    with torch_threads(3):
        expected, told = Quantizer.quantize(weight, nbits=8, axis=1, device="cpu")
    with torch_threads(1):
        for use_numba in (False, True):
            got = hqq.quantize(weight, nbits=8, axis=1, use_numba=use_numba, torch_threads=3)
            assert is_equal(got, expected, told)


def test_without_groups_and_odd() -> None:
    assert is_the_librarys(hard("outliers", (30, 37)), group_size=None, axis=1)
    assert is_the_librarys(hard("outliers", (1, 30_000)), group_size=None, axis=1, nbits=8)


def test_weights_that_groups_do_not_divide_are_the_librarys_error() -> None:
    with pytest.raises(AssertionError, match="group_size"):
        hqq.quantize(hard("normal", (3, 5)))
