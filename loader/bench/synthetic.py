"""Checkpoints of real shapes without a download: random weights, kept in the cache until they are removed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ...configs import FOLDER, table
from ..architecture.config_view import ConfigView
from ..cache_folder import cache_folder
from ..errors import DoesNotFitError, MlloadError, UsageError
from ..sources import MAX_CONFIG_BYTES
from ..sources.local import read_small
from ..strict_json import parse_object
from ..text import did_you_mean, format_bytes

_FORMAT = 1  # of what is written; what an older one wrote is not found any more
_SCRATCH = ".tmp"
_YOUNG = 60.0  # seconds
_SPARE = 64 << 20  # bytes that a disk should have left
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")  # of the embedded model: a token a byte
_TOKENS = 259


def synthetic(shape: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of a checkpoint with the shapes of `shape`, a name in configs/shapes.json or the path of a config.json, made if need be.

    `progress` hears of bytes that were written, and of how many there will be. Raises UsageError for an unknown name,
    InvalidCheckpointError for a config that no model can be built from, DoesNotFitError where the disk has no room for it.
    """
    folder = _place(shape)
    if not folder.is_dir():
        _make(_config(shape), folder, progress)
    return folder


def remove_synthetic(shape: str) -> int:
    """Remove the checkpoint of that shape; returns how many bytes that freed, none where there is none."""
    folder = _place(shape)
    freed = sum(path.stat().st_size for path in folder.rglob("*")) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def _config(shape: str) -> Mapping[str, object]:
    shapes = table("shapes")
    if shape in shapes:
        return shapes[shape]["config"]
    if not shape.endswith(".json"):
        hint = did_you_mean(shape, shapes) or f"known: {', '.join(shapes)}, or the path of a config.json"
        raise UsageError(f"unknown shape '{shape}'", hint=hint)
    config = parse_object(read_small(Path(shape), shape, limit=MAX_CONFIG_BYTES), file=shape)
    if "quantization_config" in config:
        raise UsageError(f"{shape} is of a quantized model", hint="take its quantization_config out")
    return config


def _place(shape: str) -> Path:
    """Where the checkpoint lies: its name, and a key of what it is made from."""
    root = cache_folder("synthetic")
    if root is None:
        raise MlloadError("there is no cache folder for synthetic checkpoints", hint="set MLLOAD_CACHE")
    key = hashlib.sha256(json.dumps([_FORMAT, _config(shape)], sort_keys=True).encode()).hexdigest()[:12]
    return root / f"{Path(shape).name.removesuffix('.json')}-{key}"


def _make(config: Mapping[str, object], folder: Path, progress: Callable[[int, int], None] | None) -> None:
    from .random_weights import blueprint, write_checkpoint

    made = blueprint(config)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        free = shutil.disk_usage(folder.parent).free
        if free < made.nbytes + _SPARE:
            message = f"{folder.name} takes {format_bytes(made.nbytes)}, but {folder.parent} has {format_bytes(free)} left"
            raise DoesNotFitError(message, hint="MLLOAD_CACHE moves it to another disk")
        with _scratch(folder) as scratch:
            write_checkpoint(made, scratch, progress=progress)
            if (ConfigView(config).integer("vocab_size") or 0) >= _TOKENS:
                for name in _TOKENIZER:
                    shutil.copyfile(FOLDER / "tiny" / name, scratch / name)
            _rename(scratch, folder)
    except OSError as error:
        raise MlloadError(f"{folder} can't be written: {error.strerror}", hint="MLLOAD_CACHE moves it to another disk") from None


def _rename(scratch: Path, folder: Path) -> None:
    """Give a folder its name, unless somebody else was faster."""
    try:
        os.rename(scratch, folder)
    except OSError:
        if not folder.is_dir():
            raise


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, under a lock that tells `_sweep` that its writer is alive; gone in the end, unless it was renamed."""
    scratch = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}{_SCRATCH}")
    scratch.mkdir()
    descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks, where nothing is swept
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield scratch
    finally:
        os.close(descriptor)
        shutil.rmtree(scratch, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what dead writers left. Young folders are let be: their writers may not have come to lock them."""
    for scratch in root.glob(f".*{_SCRATCH}"):
        with suppress(OSError):
            if time.time() - scratch.stat().st_mtime < _YOUNG:
                continue
            descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(scratch)
            finally:
                os.close(descriptor)
