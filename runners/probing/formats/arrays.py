"""Tensors as numpy arrays and back, for formats of other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy


def to_array(tensor: Tensor) -> numpy.ndarray:
    """The tensor's memory as an array; bfloat16, which numpy lacks, as float32: the same numbers."""
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def to_tensor(array: numpy.ndarray) -> Tensor:
    """The array's memory as a tensor, copied where it may not be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
