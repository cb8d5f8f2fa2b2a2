"""INT8 by rows as bitsandbytes' `Int8Params` makes it on a CPU, bit for bit: by way of float16, scaled by each row's largest magnitude."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .compiled import as_bits, compiled
from .pieces import LONG_PIECE, PIECE, Allocate, fresh, in_pieces


def quantize(weight: Tensor, *, use_numba: bool = False, threads: int | None = None, allocate: Allocate = fresh) -> tuple[Tensor, Tensor]:
    """int8 codes in the weight's shape, and the largest magnitude of each row in float32."""
    weight = weight.detach()
    if weight.device.type != "cpu" or weight.dim() != 2 or not weight.numel():
        return _by_the_library(weight)
    codes = allocate(tuple(weight.shape), torch.int8)
    absmax = torch.empty(weight.shape[0], dtype=torch.float32)
    loop = compiled("int8", weight.dtype) if use_numba and weight.dtype in (torch.bfloat16, torch.float32) else None

    def work(start: int, end: int) -> None:
        if loop is None:
            _piece(weight[start:end], codes[start:end], absmax[start:end])
        else:
            loop(*as_bits(weight[start:end].reshape(-1)), codes[start:end].view(-1).numpy(), absmax[start:end].numpy())

    size = PIECE if loop is None else LONG_PIECE
    in_pieces(work, weight.shape[0], piece=max(1, size // weight.shape[1]), threads=threads)
    if not np.isfinite(absmax.numpy()).all():  # which of several NaN comes out depends on the library's order
        return _by_the_library(weight)
    return codes, absmax


def _piece(weight: Tensor, codes: Tensor, absmax: Tensor) -> None:
    rows = weight.to(torch.float16).float()
    torch.amax(rows.abs(), 1, out=absmax)
    codes.copy_(rows.mul_((127.0 / absmax).unsqueeze(1)).round_())


def _by_the_library(weight: Tensor) -> tuple[Tensor, Tensor]:
    from bitsandbytes.functional import int8_vectorwise_quant

    codes, absmax, _ = int8_vectorwise_quant(weight.contiguous().to(torch.float16))
    return codes, absmax
