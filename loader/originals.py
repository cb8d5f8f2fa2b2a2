"""Checkpoints from before their models came to transformers: the same tensors and config in transformers' words, before a plan is made.

configs/originals.json has one line for each kind of them. It is told by its `model_types` and its `marker`, a tensor that it must
hold. `names` gives the name of every tensor in transformers (`{}` is the number of the layer): null for a table that is computed,
several for a tensor of which each takes an equal share of the rows. Of the `interleaved` ones the rows are put in another order, by
heads of the number that the config's key tells. `config` names the key that each key comes from, where not all stay as they are;
`rows` are sizes that a tensor's rows tell, `constants` are the same for all, and `required` are the values of keys without which the
model would compute something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..configs import table
from .architecture.config_view import ConfigView
from .checkpoint import Checkpoint
from .errors import InvalidCheckpointError, UsageError
from .tensors import Reordered, Strided, TensorEntry

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def in_transformers_words(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as transformers would have saved it; itself where it is none of those that came before.

    Nothing is read: the tensors are views of those that are stored. Raises InvalidCheckpointError for what does not divide as it
    must, UsageError for a variant that no class of transformers computes.
    """
    original = _original(checkpoint)
    if original is None:
        return checkpoint
    tensors: dict[str, TensorEntry] = {}
    for entry in checkpoint.tensors.values():
        for renamed in _renamed(entry, original, ConfigView(checkpoint.config)):
            if renamed.name in tensors:
                raise InvalidCheckpointError("it stands in the checkpoint under two names", file=entry.file, tensor=entry.name)
            tensors[renamed.name] = renamed
    return replace(checkpoint, tensors=tensors, config=_config(checkpoint, original))


def _original(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    model_type = (checkpoint.config or {}).get("model_type")
    lines = table("originals").values()
    return next((line for line in lines if model_type in line["model_types"] and line["marker"] in checkpoint.tensors), None)


def _renamed(entry: TensorEntry, original: Mapping[str, Any], config: ConfigView) -> Iterator[TensorEntry]:
    layer = _LAYER.search(entry.name)
    name = _LAYER.sub("{}", entry.name, count=1)
    number = "" if layer is None else layer[0]
    key = original.get("interleaved", {}).get(name)
    if key is not None:
        entry = _halves_apart(entry, config.integer(key) or config.integer("num_attention_heads") or 1)
    names = original["names"].get(name, entry.name)
    names = [names] if isinstance(names, str) else names or []
    for name, part in zip(names, _equal_rows(entry, len(names)), strict=True):
        yield part._replace(name=name.replace("{}", number))


def _equal_rows(entry: TensorEntry, count: int) -> Sequence[TensorEntry]:
    """The tensor cut into `count` equal groups of its rows."""
    if count < 2:
        return [entry] * count
    rows, rest = divmod(entry.shape[0] if entry.shape else 0, count)
    if rest or not entry.numel or not entry.is_one_piece:
        raise InvalidCheckpointError(
            f"its shape {list(entry.shape)} has no {count} equal groups of rows", file=entry.file, tensor=entry.name
        )
    step = entry.arrangement.stride[0] if isinstance(entry.arrangement, Strided) else entry.numel // entry.shape[0]
    step *= rows * (entry.nbytes // entry.numel)
    part = entry._replace(shape=(rows, *entry.shape[1:]), nbytes=entry.nbytes // count)
    return [part._replace(offset=entry.offset + number * step) for number in range(count)]


def _halves_apart(entry: TensorEntry, heads: int) -> TensorEntry:
    """The tensor with the rows of each head in the order of transformers' rotary embedding.

    Meta turns neighbouring numbers together, transformers those that lie half a head apart.
    """
    pairs, rest = divmod(entry.shape[0] if entry.shape else 0, heads * 2)
    if rest:
        raise InvalidCheckpointError(f"its {entry.shape[0]} rows are no {heads} heads", file=entry.file, tensor=entry.name)
    axes = (0, 2, 1, *range(3, len(entry.shape) + 2))
    return entry._replace(arrangement=Reordered(entry, (heads, pairs, 2, *entry.shape[1:]), axes))


def _config(checkpoint: Checkpoint, original: Mapping[str, Any]) -> dict[str, object]:
    config = dict(checkpoint.config or {})
    for key, wanted in original.get("required", {}).items():
        if config.get(key, wanted) != wanted:
            raise UsageError(f"{checkpoint.reference} has {key} {config[key]}, which transformers computes for no model of its type")
    names = original.get("config")
    if names is not None:
        config = {name: config[key] for name, key in names.items() if config.get(key) is not None}
    for name, tensor in original.get("rows", {}).items():
        if tensor in checkpoint.tensors and checkpoint.tensors[tensor].shape:
            config[name] = checkpoint.tensors[tensor].shape[0]
    return config | original.get("constants", {})
