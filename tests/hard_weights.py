"""Weights that a kernel may get wrong, and the bits of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _normal(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02


def hard(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Weights of one kind in float32: `normal`, or normal ones among which every 97th, a whole row or all are something else."""
    weight = _normal(shape)
    if kind in ODD_VALUES:
        weight.view(-1)[::97] = ODD_VALUES[kind]
    elif kind == "zero row":
        weight[0] = 0.0
    elif kind == "zeros":
        weight = torch.zeros(shape) * weight.sign()  # of both signs
    elif kind == "outliers":
        weight.view(-1)[::997] = 30.0
    elif kind == "steps":
        weight = (torch.arange(weight.numel()) % 17 - 8).view(shape) / 8.0
    elif kind == "tiny":
        weight = weight * 1e-40
    elif kind == "huge":
        weight = weight * 1e39
    return weight


ODD_VALUES = {"NaN": float("nan"), "infinities": float("inf"), "less than nothing": float("-inf"), "denormals": 1e-42}
KINDS = ["normal", *ODD_VALUES, "zero row", "zeros", "outliers", "steps", "tiny", "huge"]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal dtype, shape and bytes: NaN is NaN, and -0 is not 0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))
