"""Where modules come from: which part of which model each one is, as long as it lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from ..loader.errors import UsageError
from .layered import LayeredModel


@dataclass(frozen=True, eq=False)
class Origin:
    """The module `name` of a model; for a layer also its place in a stack. `model` gives that model, its weights streamed."""

    model: Callable[[], LayeredModel]
    name: str
    stack: str
    number: int | None = None


_ORIGINS: WeakKeyDictionary[nn.Module, Origin] = WeakKeyDictionary()


def remember(module: nn.Module, origin: Origin) -> nn.Module:
    """The module, of which `origin_of` knows from now on."""
    _ORIGINS[module] = origin
    return module


def origin_of(module: nn.Module) -> Origin:
    """Where it comes from, be it wrapped (compiled, given adapters). Raises UsageError for one that no collector loaded."""
    found = next((_ORIGINS[part] for part in module.modules() if part in _ORIGINS), None)
    if found is None:
        raise UsageError(f"this {type(module).__name__} was not loaded by a LlmLayerCollector", hint="or it is a copy: load it again")
    return found
