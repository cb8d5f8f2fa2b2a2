"""Precision and device as people write them: `bf16`, `cuda:0`, `0`."""

from __future__ import annotations

import torch

from ..loader.errors import UsageError
from ..loader.execution.backends import choose_backend, probe
from ..loader.text import did_you_mean, printable

_SHORT = {
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The torch dtype that `dtype` names (`bf16`, `fp16`, `float32` ...); None for None and "auto", the checkpoint's own.

    Raises UsageError for any other name.
    """
    if dtype is None or isinstance(dtype, torch.dtype) or dtype == "auto":
        return None if dtype == "auto" else dtype
    name = dtype.lower().removeprefix("torch.")
    found = _DTYPES.get(_SHORT.get(name, name))
    if found is None:
        known = ["auto", *_DTYPES, *_SHORT]
        raise UsageError(f"unknown dtype '{printable(dtype, limit=40)}'", hint=did_you_mean(name, known) or f"known: {', '.join(known)}")
    return found


def coerce_device(device: str | int | torch.device | None) -> torch.device:
    """The device that is meant: a number is that CUDA device, -1 the CPU, None the best that is there.

    Raises UsageError for a name that is none, DoesNotFitError for a device that is not there.
    """
    named = device if not isinstance(device, int) else "cpu" if device < 0 else f"cuda:{device}"
    return choose_backend(probe(), None, named)[1]
