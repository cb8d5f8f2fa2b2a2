"""What it takes to go on with a forward from between two layers, here or on another machine: as an object, and as a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..loader.errors import InvalidCheckpointError, NotFoundError
from ..loader.execution.checked_file import checksum
from ..loader.execution.weight_files import WeightFiles
from ..loader.formats.safetensors import read_header
from ..loader.sources.local import LocalFile
from ..loader.strict_json import parse_object
from .identity import ModelIdentity
from .nested import Gone, rebuilt, tensors_in
from .new_file import write_new
from .packing import Packing, Unpacking
from .passage import Boundary, Entry

SCHEMA = "mlload.state/1"
_KEY = "mlload"  # of the file's metadata


@dataclass(frozen=True)
class ForwardState:
    """A forward that has come as far as `layer` of `stack`, which is the next one; `texts` are the prompts where it began with such."""

    boundary: Boundary
    model: ModelIdentity
    texts: tuple[str, ...] = ()

    @property
    def stack(self) -> str:
        """The stack that it is in, by the name of its module."""
        return self.boundary.stack

    @property
    def layer(self) -> int:
        """The layer that comes next; after the last one, how many there are."""
        return self.boundary.call

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the model was given: token ids, masks."""
        return self.boundary.inputs

    @property
    def hidden_states(self) -> Tensor:
        """What the next layer takes up, of shape (prompts, tokens, hidden size) in all but a few models."""
        return self.boundary.hidden_states

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new file. Raises UsageError if there is one already: nothing is ever overwritten."""
        packing = Packing()
        content = json.dumps(_packed(self, packing), separators=(",", ":"))
        write_new(Path(path), {_KEY: content}, packing.tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ForwardState:
        """Read one that `save` wrote. Raises NotFoundError, or InvalidCheckpointError for a file that is not whole or no state."""
        path = Path(path)
        if not os.path.lexists(path):
            raise NotFoundError(f"there is no state {path}", hint="`mlload partial-forward --output` writes one")
        with LocalFile(path, path.name) as file:
            header = read_header(file)
            is_whole = header.metadata.get("crc32") == checksum(file, header)
        text = header.metadata.get(_KEY)
        if not isinstance(text, str):
            raise InvalidCheckpointError("is no state of a forward", file=path.name, hint="`mlload partial-forward --output` makes one")
        if not is_whole:
            raise InvalidCheckpointError("its checksum is wrong: it was changed", file=path.name, hint="make the state anew")
        files = WeightFiles(path.parent, mapped=False)
        tensors = {entry.name: files.read(entry) for entry in header.tensors}
        files.close()
        return _unpacked(parse_object(text.encode(), file=path.name), Unpacking(tensors, path.name))


def _packed(state: ForwardState, packing: Packing) -> dict[str, Any]:
    boundary, entry = state.boundary, state.boundary.entry
    given = [packing.pack(entry.positional, "entry"), packing.pack(entry.named, "entry")]
    outputs = {
        stack: [packing.pack(output, f"{stack}.{call}") for call, output in enumerate(calls)] for stack, calls in boundary.outputs.items()
    }
    return {
        "schema": SCHEMA,
        "model": asdict(state.model),
        "texts": list(state.texts),
        "stack": boundary.stack,
        "layer": boundary.call,
        "is_ended": boundary.is_ended,
        "inputs": packing.pack(rebuilt(boundary.inputs, lambda tensor: tensor), "inputs"),
        "entry": given,
        "outputs": outputs,
        "random": packing.pack(boundary.random, "random"),
    }


def _unpacked(content: Mapping[str, object], unpacking: Unpacking) -> ForwardState:
    match content:
        case {
            "schema": "mlload.state/1",
            "model": dict(model),
            "texts": list(texts),
            "stack": str(stack),
            "layer": int(layer),
            "is_ended": bool(is_ended),
            "inputs": inputs,
            "entry": [positional, named],
            "outputs": dict(calls),
            "random": random,
        } if all(isinstance(each, list) for each in calls.values()):
            outputs = {name: [*map(unpacking.unpack, each)] for name, each in calls.items()}
            entry = Entry(unpacking.unpack(positional), unpacking.unpack(named))
            boundary = Boundary(stack, layer, unpacking.unpack(inputs), outputs, entry, is_ended, unpacking.unpack(random))
            _check(boundary, unpacking)
            return ForwardState(boundary, _identity(model, unpacking), tuple(map(str, texts)))
        case _:
            raise unpacking.refused("is not one of this version of mlload")


def _identity(content: Mapping[str, object], unpacking: Unpacking) -> ModelIdentity:
    are_texts = all(isinstance(value, str) or (key == "revision" and value is None) for key, value in content.items())
    if not are_texts or content.keys() != {field.name for field in fields(ModelIdentity)}:
        raise unpacking.refused("does not say which model it is of")
    return ModelIdentity(**content)  # pyright: ignore[reportArgumentType]  # checked just above


def _check(boundary: Boundary, unpacking: Unpacking) -> None:
    """What the rest of mlload takes for granted."""
    entry = (boundary.entry.positional, boundary.entry.named)
    for table in (boundary.inputs, *entry):
        if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
            raise unpacking.refused("lacks what the model or its layer is given")
    lost: list[Gone] = []
    rebuilt((boundary.inputs, *entry, boundary.random), lost.append, Gone)
    if lost or len(boundary.outputs.get(boundary.stack, ())) != boundary.call or boundary.call < boundary.is_ended:
        raise unpacking.refused("does not hold what the layers before gave")
    given = boundary.outputs[boundary.stack][-1:] if boundary.is_ended else entry
    if not any(tensor.is_floating_point() for tensor in tensors_in(given)):
        raise unpacking.refused("holds no hidden states")
    if boundary.random is not None and not _is_random_state(boundary.random):
        raise unpacking.refused("holds no state of random numbers where it should")


def _is_random_state(value: object) -> bool:
    known = torch.get_rng_state()
    return isinstance(value, Tensor) and value.dtype == known.dtype and value.shape == known.shape
