"""Weights that are no numbers: what a broken training run or a broken file leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHUNK = 1 << 24  # elements looked at together


def non_finite(model: PreTrainedModel) -> dict[str, int]:
    """How many NaN and infinite elements each tensor of the state dict has, for those that have any."""
    found = {name: _count(tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    return {name: count for name, count in found.items() if count}


def _count(tensor: torch.Tensor) -> int:
    return sum(int((~torch.isfinite(part)).sum()) for part in tensor.reshape(-1).split(_CHUNK))
