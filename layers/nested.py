"""What layers are given and give back: tensors in tuples, lists and mappings, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache

from ..loader.errors import UsageError

_PLAIN = (bool, int, float, str, type(None))
_OF_THE_MODEL = (Cache, torch.dtype, torch.device)  # made anew by every forward


@dataclass(frozen=True, slots=True)
class Gone:
    """A tensor that nothing holds any more: all that is left of it is what another one in its place would look like."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def stand_in(self, device: torch.device) -> Tensor:
        """A tensor that shows where it is used after all: nothing but NaN, where its dtype has that."""
        value = torch.nan if self.dtype.is_floating_point or self.dtype.is_complex else 0
        return torch.full(self.shape, value, dtype=self.dtype, device=device)


@dataclass(frozen=True, slots=True)
class Own:
    """In the place of an object that every forward makes for itself."""


def rebuilt(value: Any, leaf: Callable[[Any], Any], leaves: type | tuple[type, ...] = (Tensor, Gone), *, keep_own: bool = False) -> Any:
    """`value` with every one of `leaves` in it replaced by what `leaf` makes of it; objects of the forward's own stay with `keep_own`.

    Raises UsageError for an object of unknown make.
    """
    if isinstance(value, leaves):
        return leaf(value)
    if isinstance(value, (*_PLAIN, Tensor, Gone, Own)):
        return value
    if isinstance(value, _OF_THE_MODEL):
        return value if keep_own else Own()
    if isinstance(value, tuple):
        items = [rebuilt(item, leaf, leaves, keep_own=keep_own) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [rebuilt(item, leaf, leaves, keep_own=keep_own) for item in value]
    if isinstance(value, Mapping):
        return {key: rebuilt(item, leaf, leaves, keep_own=keep_own) for key, item in value.items()}
    raise UsageError(f"its layers hand on a {type(value).__name__}, which can't be kept apart from the model")


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in `value`, in their order."""
    found: list[Tensor] = []
    rebuilt(value, found.append, Tensor)
    return found


def restored(given: Any, kept: Any) -> Any:
    """`kept` in the place of `given`: what others hold on to as well (lists, mappings) is changed where it is, all else replaced."""
    if isinstance(kept, Own):
        return given
    if isinstance(given, MutableMapping) and isinstance(kept, Mapping):
        mapping = cast("MutableMapping[Any, Any]", given)
        mapping.update({key: restored(mapping.get(key), item) for key, item in kept.items()})
        return mapping
    if isinstance(given, list) and isinstance(kept, list):
        given[:] = _paired(given, kept)
        return given
    if isinstance(given, tuple) and isinstance(kept, tuple):
        items = _paired(given, kept)
        return type(given)(*items) if hasattr(given, "_fields") else tuple(items)
    return kept


def _paired(given: list[Any] | tuple[Any, ...], kept: list[Any] | tuple[Any, ...]) -> list[Any]:
    others = given if len(given) == len(kept) else [None] * len(kept)
    return [restored(other, item) for other, item in zip(others, kept, strict=True)]
