"""INT8 by rows as bitsandbytes' `Int8Params` makes it on a CPU, bit for bit: by way of float16, scaled by each row's largest magnitude."""

from __future__ import annotations

import torch
from torch import Tensor

from .pieces import PIECE, in_pieces


def quantize(weight: Tensor, *, threads: int | None = None) -> tuple[Tensor, Tensor]:
    """int8 codes in the weight's shape, and the largest magnitude of each row in float32."""
    weight = weight.detach()
    if weight.device.type != "cpu" or weight.dim() != 2 or not weight.numel():
        return _by_the_library(weight)
    codes = torch.empty(weight.shape, dtype=torch.int8)
    absmax = torch.empty(weight.shape[0], dtype=torch.float32)

    def work(start: int, end: int) -> None:
        rows = weight[start:end].to(torch.float16).float()
        torch.amax(rows.abs(), 1, out=absmax[start:end])
        codes[start:end] = rows.mul_((127.0 / absmax[start:end]).unsqueeze(1)).round_()

    in_pieces(work, weight.shape[0], piece=max(1, PIECE // weight.shape[1]), threads=threads)
    if absmax.isnan().any():  # which of several NaN comes out depends on the library's order
        return _by_the_library(weight)
    return codes, absmax


def _by_the_library(weight: Tensor) -> tuple[Tensor, Tensor]:
    from bitsandbytes.functional import int8_vectorwise_quant

    codes, absmax, _ = int8_vectorwise_quant(weight.contiguous().to(torch.float16))
    return codes, absmax
