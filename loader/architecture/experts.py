"""Mixture of experts: how many there are, how many a token meets, and what that leaves of the parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..tensors import TensorEntry
from .config_view import ConfigView
from .quantization import Parameters

_NUMBERED = re.compile(r"(?<!shared_)experts?\.(?:expert_)?(\d{1,6})\.")
_ROUTED = re.compile(r"(?<!shared_)experts\b|_exps\b|(?<!shared_)experts_")


@dataclass(frozen=True, slots=True)
class Experts:
    """`active_parameters` counts what one token meets: everything but the routed experts it is not sent to."""

    num_experts: int
    experts_per_token: int | None
    routed_parameters: int
    active_parameters: int | None


def detect_experts(view: ConfigView, tensors: Iterable[TensorEntry], parameters: Parameters) -> Experts | None:
    """The experts of a mixture-of-experts model, or None for a dense one."""
    everything = list(tensors)
    declared = view.integer("num_experts")
    count = declared or _numbered(everything) or _stacked(everything)
    if not count or count < 2:
        return None
    routed = sum(parameters.of(tensor) for tensor in everything if is_routed(tensor, count))
    if not routed:
        return None
    total = sum(parameters.of(tensor) for tensor in everything)
    chosen = view.integer("num_experts_per_tok")
    active = None if chosen is None or chosen > count else total - routed + routed * chosen // count
    return Experts(count, chosen, routed, active)


def _numbered(tensors: Iterable[TensorEntry]) -> int:
    """How many experts are stored one by one, where no config says."""
    return max((int(match[1]) + 1 for tensor in tensors if "expert" in tensor.name and (match := _NUMBERED.search(tensor.name))), default=0)


def _stacked(tensors: Iterable[TensorEntry]) -> int | None:
    """How many experts are stacked in one tensor, where no config says."""
    return next((tensor.shape[0] for tensor in tensors if len(tensor.shape) == 3 and _ROUTED.search(tensor.name)), None)


def is_routed(tensor: TensorEntry, count: int) -> bool:
    """An expert's own tensor, or all experts' in one: named so, or of three dimensions with the experts first."""
    if "exp" in tensor.name and _ROUTED.search(tensor.name):
        return True
    return len(tensor.shape) == 3 and tensor.shape[0] == count and "conv" not in tensor.name
