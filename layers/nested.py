"""What layers are given and give back: tensors in tuples, lists and mappings, taken apart and put together again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

from ..loader.errors import UsageError

_PLAIN = (bool, int, float, str, type(None))
_CACHES = (Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin)


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
class Held:
    """What a cache (or one of its layers) holds: its attributes, to be put into one that the model has made for itself."""

    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Own:
    """In the place of something that every forward has anew, and that says nothing of how far it has come."""


def rebuilt(value: Any, leaf: Callable[[Any], Any], leaves: type | tuple[type, ...] = (Tensor, Gone)) -> Any:
    """`value` with every one of `leaves` in it replaced by what `leaf` makes of it, and caches by what they hold.

    Raises UsageError for an object of unknown make.
    """
    if isinstance(value, leaves):
        return leaf(value)
    if isinstance(value, (*_PLAIN, Tensor, Gone, Own)):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return Own()
    if isinstance(value, tuple):
        items = [rebuilt(item, leaf, leaves) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [rebuilt(item, leaf, leaves) for item in value]
    if isinstance(value, Mapping):
        return {key: rebuilt(item, leaf, leaves) for key, item in value.items()}
    if isinstance(value, (Held, *_CACHES)):
        return Held({name: _attribute(item, leaf, leaves) for name, item in _attributes(value).items()})
    raise UsageError(f"its layers hand on a {type(value).__name__}, which can't be kept apart from the model")


def _attributes(cache: Any) -> Mapping[str, Any]:
    return cache.attributes if isinstance(cache, Held) else vars(cache)


def _attribute(value: Any, leaf: Callable[[Any], Any], leaves: type | tuple[type, ...]) -> Any:
    """An attribute of a cache; what is no data (a class, a stream) is its own."""
    try:
        return rebuilt(value, leaf, leaves)
    except UsageError:
        return Own()


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in `value`, in their order."""
    found: list[Tensor] = []
    rebuilt(value, found.append, Tensor)
    return found


def restored(given: Any, kept: Any) -> Any:
    """`kept` in the place of `given`: lists, mappings and caches, which others hold on to as well, are changed where they are."""
    if isinstance(kept, Own):
        return given
    if isinstance(kept, Held):
        return _filled(given, kept)
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


def _filled(cache: Any, held: Held) -> Any:
    """The cache with what another one held. Raises UsageError where there is none."""
    if not isinstance(cache, _CACHES):
        raise UsageError("the state holds keys and values, but the model has no cache to put them in", hint="run it with use_cache")
    make = getattr(cache, "layer_class_to_replicate", None)
    layers = held.attributes.get("layers")
    if make is not None and isinstance(cache, Cache) and isinstance(layers, list):
        cache.layers.extend(make() for _ in range(len(layers) - len(cache.layers)))
    for name, kept in held.attributes.items():
        setattr(cache, name, restored(getattr(cache, name, None), kept))
    if isinstance(keys := held.attributes.get("keys"), Tensor):
        vars(cache).update(dtype=keys.dtype, device=keys.device)
    return cache


def _paired(given: list[Any] | tuple[Any, ...], kept: list[Any] | tuple[Any, ...]) -> list[Any]:
    others = given if len(given) == len(kept) else [None] * len(kept)
    return [restored(other, item) for other, item in zip(others, kept, strict=True)]


def caches_in(kept: Any) -> Any:
    """Of something that is kept, what caches held; all the rest is their own."""
    return rebuilt(kept, lambda leaf: leaf if isinstance(leaf, Held) else Own(), (Tensor, Gone, Held))


def empty_cache(model: PreTrainedModel) -> Cache:
    """A cache of the kind that the model makes for itself."""
    if model.config.is_encoder_decoder:
        return EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    return DynamicCache(config=model.config)


def twin(value: Any) -> Any:
    """A cache like `value`, with the same tensors, which can be filled without a change to that one."""
    if isinstance(value, _CACHES):
        other = copy.copy(value)
        vars(other).update({name: twin(item) for name, item in vars(value).items()})
        return other
    if isinstance(value, list):
        return [twin(item) for item in value]
    return {key: twin(item) for key, item in value.items()} if isinstance(value, dict) else value
