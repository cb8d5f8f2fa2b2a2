"""Which key the quantized weights of files had the last time: the disk begins with them while torch is imported, and the key not known."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..cache_folder import cache_folder
from ..settings import QuantizationConfig
from ..writing import replacing, write_all

_KEY = re.compile("[0-9a-f]{64}")


def note_key(weights: Sequence[Path], asked: QuantizationConfig, key: str) -> None:
    """Remember `key` for the next time. Where it can't be, that begins no sooner than this one."""
    path = _path(weights, asked)
    if path is None or _read(path) == key:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as descriptor:
            write_all(descriptor, key.encode())


def kept_files(weights: Sequence[Path], asked: QuantizationConfig) -> list[Path]:
    """The files that are probably the quantized weights of files, in the order of their names; none where nothing is known of them."""
    path, root = _path(weights, asked), cache_folder("quantized")
    key = None if path is None else _read(path)
    return [] if root is None or key is None else sorted((root / key).glob("*.safetensors"))


def _path(weights: Sequence[Path], asked: QuantizationConfig) -> Path | None:
    root = cache_folder("quantized_keys")
    text = json.dumps([[str(path.resolve()) for path in weights], asdict(asked)], default=str)
    return root and root / hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="ascii") as file:
        key = file.read(100)
        return key if _KEY.fullmatch(key) else None
    return None
