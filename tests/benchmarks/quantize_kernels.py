"""Quantizing one matrix on the CPU: our kernels beside the libraries', in one process, in turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median

import torch
from bitsandbytes.functional import quantize_4bit
from bitsandbytes.nn import Int8Params
from hqq.core.quantize import Quantizer
from torch import Tensor

from mlload.loader.quantization import four_bit, hqq, int8

ROWS, COLUMNS = 4096, 4096
HQQ_ROWS = 1024  # the library takes some ten seconds for these
Contender = Callable[[Tensor], object]


def _four_bit(quant_type: str) -> dict[str, Contender]:
    return {
        "library": lambda weight: quantize_4bit(weight, quant_type=quant_type),
        "torch": lambda weight: four_bit.quantize(weight, quant_type=quant_type),
        "numba": lambda weight: four_bit.quantize(weight, quant_type=quant_type, use_numba=True),
    }


def _hqq(axis: int) -> dict[str, Contender]:
    return {
        "library": lambda weight: Quantizer.quantize(weight[:HQQ_ROWS], axis=axis, device="cpu"),
        "torch": lambda weight: hqq.quantize(weight[:HQQ_ROWS], axis=axis),
        "numba": lambda weight: hqq.quantize(weight[:HQQ_ROWS], axis=axis, use_numba=True),
    }


METHODS: Mapping[str, dict[str, Contender]] = {
    "NF4": _four_bit("nf4"),
    "FP4": _four_bit("fp4"),
    "INT8": {
        "library": lambda weight: Int8Params(weight, requires_grad=False).to("cpu"),
        "torch": int8.quantize,
        "numba": lambda weight: int8.quantize(weight, use_numba=True),
    },
    "HQQ, 4 bits, axis 1": _hqq(1),
    "HQQ, 4 bits, axis 0": _hqq(0),
}


def measure(runs: int = 3) -> Iterator[str]:
    """The table, line by line."""
    weight = (torch.randn(ROWS, COLUMNS) * 0.02).bfloat16()
    yield f"Million weights a second, bfloat16, {torch.get_num_threads()} threads, medians of {runs} runs each in turn after a warm-up:"
    yield ""
    yield "| method | library | chunked torch | numba | torch, times as fast | numba, times as fast |"
    yield "|---|---|---|---|---|---|"
    for method, contenders in METHODS.items():
        size = COLUMNS * (HQQ_ROWS if method.startswith("HQQ") else ROWS)
        yield _row(method, {name: size / seconds / 1e6 for name, seconds in _in_turn(contenders, weight, runs).items()})


def _in_turn(contenders: Mapping[str, Contender], weight: Tensor, runs: int) -> dict[str, float]:
    """Median seconds of each, A B A B."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, quantize in contenders.items():
            begun = time.perf_counter()
            quantize(weight)
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: median(each) for name, each in seconds.items()}


def _row(method: str, rates: Mapping[str, float]) -> str:
    cells = [f"{rates[name]:.{1 if rates[name] < 10 else 0}f}" if name in rates else "-" for name in ("library", "torch", "numba")]
    ratios = [f"{rates[name] / rates['library']:.1f}" if name in rates else "-" for name in ("torch", "numba")]
    return f"| {' | '.join([method, *cells, *ratios])} |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in measure())
