"""Which model it is: enough to know it again on another machine, without reading its weights whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..loader.checkpoint import Checkpoint
from ..loader.errors import UsageError
from ..loader.planned import PlannedLoad
from ..loader.sources.local import LocalFile
from ..loader.tensors import TensorEntry

_SAMPLED_TENSORS, _SAMPLED_BYTES = 1_000, 64
_PASSING = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")  # keys of a config that say nothing of the model


@dataclass(frozen=True)
class ModelIdentity:
    """What a model was, so that a state is not gone on with in another one.

    `structure` is a digest of config and tensor table, `weights` one of some bytes of up to 1,000 tensors. `precision` is the dtype that
    is computed in, with the quantization if there is one.
    """

    reference: str
    class_name: str
    revision: str | None
    precision: str
    structure: str
    weights: str

    def check(self, other: ModelIdentity) -> None:
        """Raises UsageError, in words, where a state of `self` does not belong to the model `other`."""
        if (self.class_name, self.structure) != (other.class_name, other.structure):
            raise UsageError(f"the state is of another model: {self.reference}, a {self.class_name}", hint="name that one")
        if self.weights != other.weights:
            revision = f" (revision {self.revision})" if self.revision else ""
            message = f"the state is of other weights of this architecture: {self.reference}{revision}"
            raise UsageError(message, hint="name the model, and its revision, that made it")
        if self.precision != other.precision:
            raise UsageError(f"the state is in {self.precision}, the model in {other.precision}", hint=f"load it in {self.precision}")


def identify(planned: PlannedLoad) -> ModelIdentity:
    """The identity of the model that `planned` is to load."""
    checkpoint = planned.checkpoint
    asked = planned.settings.quantization_config
    precision = str(planned.skeleton.dtype).removeprefix("torch.")
    return ModelIdentity(
        reference=os.fspath(planned.settings.model_name),
        class_name=type(planned.skeleton.model).__name__,
        revision=checkpoint.revision,
        precision=precision if asked is None else f"{precision} with {_quantization(asdict(asked))}",
        structure=_structure(checkpoint),
        weights=_weights(checkpoint.tensors.values(), planned.weights),
    )


def _quantization(asked: Mapping[str, object]) -> str:
    chosen = {key: getattr(value, "value", value) for key, value in asked.items() if value not in (None, False, ())}
    return ", ".join(f"{key} {value}" for key, value in chosen.items())


def _structure(checkpoint: Checkpoint) -> str:
    config = {key: value for key, value in (checkpoint.config or {}).items() if key not in _PASSING}
    table = sorted((entry.name, entry.dtype, entry.shape) for entry in checkpoint.tensors.values())
    return hashlib.sha256(json.dumps([config, table], sort_keys=True).encode()).hexdigest()


def _weights(entries: Iterable[TensorEntry], folder: Path) -> str:
    """A digest of some bytes from the middle of tensors all over the checkpoint: training changes nearly all of them."""
    ordered = sorted((piece for entry in entries for piece in entry.pieces), key=lambda piece: (piece.name, piece.file))
    digest = hashlib.sha256()
    files: dict[str, LocalFile] = {}
    for piece in ordered[:: -(-len(ordered) // _SAMPLED_TENSORS) or 1]:
        file = files.setdefault(piece.file, LocalFile(folder / piece.file, piece.file)) if piece.file not in files else files[piece.file]
        digest.update(file.read(piece.offset + piece.nbytes // 2, min(_SAMPLED_BYTES, piece.nbytes - piece.nbytes // 2)))
    for file in files.values():
        file.__exit__(None)
    return digest.hexdigest()
