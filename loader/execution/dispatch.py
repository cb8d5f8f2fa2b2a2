"""A model whose units lie on several devices: accelerate's hooks carry what it computes from one to the next."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from ..errors import MissingDependencyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def require_accelerate() -> None:
    """Raises MissingDependencyError where accelerate is not installed."""
    if find_spec("accelerate") is None:
        raise MissingDependencyError("a model on several devices needs accelerate", hint='pip install "mlload[quantize]"')


def dispatch(model: PreTrainedModel, units: Mapping[str, torch.device]) -> None:
    """Let `model`, whose weights lie where `units` say, compute there; `hf_device_map` is set as from_pretrained sets it.

    What belongs to no unit, because it holds no weight or one that is tied, is computed on the first device, or where its weight is.
    """
    from accelerate import dispatch_model

    first = next(iter(units.values()))
    places = {name: _name(device) for name, device in (*_others(model, units, first), *units.items())}
    skipped: Any = model._skip_keys_device_placement
    dispatch_model(model, device_map=places, main_device=_name(first), skip_keys=skipped, force_hooks=True)


def _others(model: PreTrainedModel, units: Mapping[str, torch.device], first: torch.device) -> list[tuple[str, torch.device]]:
    """Modules with tensors of their own that no unit holds: tables, and heads whose weight is tied to another's."""
    found: list[tuple[str, torch.device]] = []
    for name, module in model.named_modules():
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        is_held = any(name == unit or name.startswith(f"{unit}.") for unit in units)
        if name and tensors and not is_held:
            found.append((name, next((tensor.device for tensor in tensors if tensor.device.type != "meta"), first)))
    return found


def _name(device: torch.device) -> Any:
    """As accelerate says it: a number for a CUDA device."""
    return device.index or 0 if device.type == "cuda" else device
