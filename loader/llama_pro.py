"""LLaMA Pro: a model that was given more layers, the inserted ones copies of those before them that at first add nothing.

The name of the folder tells how many layers there were and are (`blk_exp-32-40`). It holds the weights of all layers; where it holds
only those of the old ones, the others are inserted as the expansion would have: after every few layers a copy of the last one whose
two projections into the residual stream (`o_proj`, `down_proj`) are zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path

from .checkpoint import Checkpoint
from .errors import InvalidCheckpointError, UsageError
from .tensors import Constant, Sliced, TensorEntry

_NAME = re.compile(r"blk_exp-(?P<old>\d{1,5})-(?P<new>\d{1,5})")
_INTO_RESIDUAL = re.compile(r"\.(o_proj|down_proj)\.(weight|bias)$")


def open_expanded(base: Checkpoint, folder: str | PathLike[str]) -> Checkpoint:
    """The weights in `folder` with the config of `base`, with as many layers as are stored.

    Raises UsageError where the folder's name tells no numbers of layers, InvalidCheckpointError where another number is stored.
    """
    numbers = _numbers(folder)
    expanded = Checkpoint.open(folder)
    stack = expanded.architecture.structure.main
    stored = 0 if stack is None else stack.num_layers
    if stored not in numbers:
        message = f"holds {stored:,} layers, but its name says {numbers[0]} or {numbers[1]}"
        raise InvalidCheckpointError(message, file=fspath(folder), hint="is it downloaded whole?")
    return replace(expanded, config={**(base.config or {}), "num_hidden_layers": stored})


def with_all_layers(checkpoint: Checkpoint, folder: str | PathLike[str]) -> Checkpoint:
    """The checkpoint of `folder` with the layers that its name promises: itself, or with copies inserted."""
    old, new = _numbers(folder)
    stack = checkpoint.architecture.structure.main
    if stack is None or stack.num_layers == new:
        return checkpoint
    if checkpoint.quantization is not None:
        raise UsageError("layers can't be inserted into a quantized model", hint="name the folder of the expanded weights")
    tensors = {name: entry for name, entry in checkpoint.tensors.items() if not name.startswith(f"{stack.prefix}.")}
    for entry in _layers(stack.layers, stack.prefix, every=old // (new - old)):
        tensors[entry.name] = entry
    return replace(checkpoint, tensors=tensors, config={**(checkpoint.config or {}), "num_hidden_layers": new})


def _layers(layers: Mapping[int, Mapping[str, TensorEntry]], prefix: str, *, every: int) -> Iterator[TensorEntry]:
    place = 0
    for number in sorted(layers):
        copies = (False, True) if (number + 1) % every == 0 else (False,)
        for is_copy in copies:
            for rest, entry in layers[number].items():
                renamed = entry._replace(name=f"{prefix}.{place}.{rest}")
                yield _inserted(renamed) if is_copy else renamed
            place += 1


def _inserted(entry: TensorEntry) -> TensorEntry:
    """The tensor of a layer that adds nothing yet, in memory of its own: it must not change with the one that it is a copy of."""
    if _INTO_RESIDUAL.search(entry.name):
        return entry._replace(arrangement=Constant(0), nbytes=0)
    return entry._replace(arrangement=Sliced(0, (entry,)))


def _numbers(folder: str | PathLike[str]) -> tuple[int, int]:
    """How many layers there were, and are."""
    name = Path(folder).name
    match = _NAME.search(name)
    old, new = (int(match["old"]), int(match["new"])) if match else (0, 0)
    if not 0 < old < new <= 2 * old or old % (new - old):
        hint = "it ends as blk_exp-32-40 does: 32 layers, and 8 inserted among them evenly"
        raise UsageError(f"the name of '{name}' tells no numbers of layers", hint=hint)
    return old, new
