"""What sentence-transformers' files in a checkpoint's folder say of getting one vector of a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..loader.errors import InvalidCheckpointError
from ..loader.strict_json import parse_object

_MAX_BYTES = 1 << 16
_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class Convention:
    """How token states become a vector, and how many tokens of a text are read; None where nothing is said."""

    pooling: str | None
    max_length: int | None


def find_convention(folder: Path) -> Convention:
    """The convention of the checkpoint in `folder`."""
    modes = _read(folder / "1_Pooling" / "config.json")
    named = modes.get("pooling_mode")
    pooling = named if named in _MODES.values() else next((how for key, how in _MODES.items() if modes.get(key) is True), None)
    length = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    return Convention(pooling if isinstance(pooling, str) else None, length if type(length) is int else None)


def _read(path: Path) -> dict[str, object]:
    """A small file of JSON; empty where there is none that can be read: a convention is no reason to refuse a model."""
    try:
        if path.is_file() and path.stat().st_size <= _MAX_BYTES:
            return dict(parse_object(path.read_bytes(), file=path.name))
    except (OSError, InvalidCheckpointError):
        pass
    return {}
