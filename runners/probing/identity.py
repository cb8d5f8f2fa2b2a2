"""What an answer was made from and with: the model's files, its tokenizer, the versions of the libraries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from ..base import BaseModelRunner
from .record import Recorder
from .settings import ProbeSettings

_LIBRARIES = ("mlload", "torch", "transformers", "tokenizers")
_SAMPLE = 1 << 16  # bytes at the beginning, the middle and the end of a shard
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")


def identity(
    runner: BaseModelRunner, recorder: Recorder, settings: ProbeSettings, *, max_length: int | None, batch_tokens: int
) -> dict[str, object]:
    """Everything that the bytes of an answer depend on, beside the texts."""
    checkpoint, folder = runner.loaded.checkpoint, runner.loaded.folder
    method = runner.settings.quantization_config
    return {
        "model": checkpoint.reference,
        "revision": checkpoint.revision,
        "class": type(runner.model).__name__,
        "weights": [_shard(folder, name) for name in checkpoint.shards],
        "tokenizer": _tokenizer(runner, folder),
        "dtype": _plain(runner.dtype),
        "quantization": None if method is None else method.method.value,
        "attention": runner.settings.attn_implementation,
        "device": runner.device.type,
        "rows_dtype": _plain(recorder.rows_dtype),
        "kept": [kept.name for kept in recorder.kept],
        "pooling": recorder.pool,
        "tokens": settings.tokens,
        "max_length": max_length,
        "batch_tokens": batch_tokens,
        "texts_per_shard": settings.texts_per_shard,
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def differing(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """The keys under which two identities differ."""
    return [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]


def _shard(folder: Path, name: str) -> dict[str, object]:
    """A weights file: in the hub's cache its name is its hash, elsewhere its size and three samples of its bytes tell."""
    path = (folder / name).resolve()
    size = path.stat().st_size
    if path.parent.name == "blobs":
        return {"file": name, "bytes": size, "blob": path.name}
    content = hashlib.sha256()
    with open(path, "rb") as file:
        for place in (0, size // 2, max(size - _SAMPLE, 0)):
            file.seek(place)
            content.update(file.read(_SAMPLE))
    return {"file": name, "bytes": size, "sampled_sha256": content.hexdigest()}


def _tokenizer(runner: BaseModelRunner, folder: Path) -> dict[str, object]:
    file = next((name for name in _TOKENIZER_FILES if (folder / name).is_file()), None)
    digest = None if file is None else hashlib.sha256((folder / file).read_bytes()).hexdigest()
    return {"class": type(runner.tokenizer).__name__, "tokens": len(runner.tokenizer), "file": file, "sha256": digest}


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
