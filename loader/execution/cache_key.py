"""What quantized weights depend on, as one key: the shards, the plan, the quantization, the libraries."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..plan import LoadPlan, Step
from ..settings import QuantizationConfig

FORMAT = 1  # of the cache; what an older one wrote is not found any more
_LIBRARIES = ("torch", "transformers", "bitsandbytes", "hqq")
_HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_YOUNG = 2.0  # seconds: a file may change once more without getting another time


@dataclass(frozen=True)
class SourceFiles:
    """Files that weights are read from, each with its size, times and inode as they were."""

    statuses: Mapping[Path, tuple[int, int, int, int]]

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> SourceFiles:
        """The files as they are now."""
        return cls({folder / name: _status(folder / name) for name in names})

    def are_unchanged(self) -> bool:
        """Whether they still are as they were."""
        try:
            return all(_status(path) == status for path, status in self.statuses.items())
        except OSError:
            return False

    def identities(self) -> list[tuple[object, ...]]:
        """What tells each file from any other and from what it was before."""
        return [(path.name, *_identity(path, status)) for path, status in self.statuses.items()]


def cache_key(
    plan: LoadPlan,
    sources: SourceFiles,
    config: Mapping[str, object],
    asked: QuantizationConfig,
    *,
    class_name: str,
    device: str,
    is_packed: bool = False,
) -> str:
    """The key under which the quantized tensors of `plan` lie; where they are packed as a CPU computes with them, another one."""
    parts = {
        "format": FORMAT,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "class": class_name,
        "device": device,
        "config": config,
        "quantization": asdict(asked),
        "sources": sources.identities(),
        "plan": list(_planned(plan)),
        **({"packed": True} if is_packed else {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: object) -> str:
    return str(value).removeprefix("torch.")  # a dtype is the same by its name


def _planned(plan: LoadPlan) -> Iterator[object]:
    """Every quantized tensor: where its bytes lie in the shards, as their headers say, and what is made of them."""
    for step in plan.steps:
        if step.quantized:
            yield step.unit, step.sources, step.targets, _conversion(step)


def _conversion(step: Step) -> object:
    return None if step.conversion is None else (step.conversion.summary, step.conversion.patterns)


def _status(path: Path) -> tuple[int, int, int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _identity(path: Path, status: tuple[int, int, int, int]) -> tuple[object, ...]:
    """In the hub's cache a file's name is a hash of its content; elsewhere size, times and inode tell, unless it is too young for that."""
    real = path.resolve()
    if real.parent.name == "blobs" and _HASH.fullmatch(real.name):
        return "blob", real.name, status[0]
    if time.time() - max(status[1], status[2]) / 1e9 > _YOUNG:
        return "status", *status
    with open(real, "rb") as file:
        return "content", hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
