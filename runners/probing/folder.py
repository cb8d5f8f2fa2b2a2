"""The folder of an answer: shards that are whole or not there, and what is known of each, so that a job goes on where it was killed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...loader.errors import InvalidCheckpointError, UsageError
from ...loader.sources.local import read_small
from ...loader.strict_json import parse_object
from ...loader.writing import remove, sweep, write_whole
from .formats import Format
from .identity import differing
from .statistics import Sums

SCHEMA = "mlload.probe-index/1"
INDEX = "index.json"
_JOB = "job.json"  # while it runs: what it computes
_PROGRESS = "progress"  # while it runs: a file for each shard that is there
_MAX_JSON_BYTES = 1 << 28


@dataclass(frozen=True)
class ShardLine:
    """What is known of a shard: its file, its texts and what came of them. `tokens` are read, `dropped` cut off from `truncated` texts."""

    file: str
    first: int
    texts: int
    rows: int
    tokens: int
    truncated: int
    dropped: int
    empty: int
    digest: str  # of the texts
    sums: Mapping[str, Sums] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ShardLine:
        """A line as it was written."""
        return cls(**{**content, "sums": {name: Sums(**sums) for name, sums in content["sums"].items()}})


class OutputFolder:
    """Where shards are written. Made anew or gone on with: a folder of another job, or of something else, is refused."""

    def __init__(self, path: Path, identity: Mapping[str, object], format: Format) -> None:
        self.path = path
        self.format = format
        self._job = {"format": format.name, **json.loads(json.dumps(identity))}
        self._done: dict[int, ShardLine] = {}
        self.is_complete = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Take the folder, look at what it holds, sweep what a dead writer left. Raises UsageError where it is not this job's."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise UsageError(f"{self.path} is not a folder", hint="name one that is not there yet")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"{self.path} can't be written to: {error.strerror}") from None
        try:
            _lock(descriptor, self.path)
            self._take()
            yield
        finally:
            os.close(descriptor)

    def done(self, number: int, digest: str) -> ShardLine | None:
        """What is known of a shard that is there already. Raises UsageError where it was made of other texts."""
        line = self._done.get(number)
        if line is None and not self.is_complete:
            return None
        if line is None or line.digest != digest:
            raise UsageError(
                f"{self.path} holds states of other texts", hint="name another folder, or give the texts that it was begun with"
            )
        return line

    def remembered(self, number: int) -> ShardLine:
        """What is known of a shard that was computed meanwhile."""
        return ShardLine.from_json(_read(self.path / _PROGRESS / f"{number:05}.json"))

    def file_of(self, number: int) -> Path:
        """Where the shard of that number lies."""
        return self.path / f"shard-{number:05}{self.format.suffix}"

    def keep(self, number: int, line: ShardLine) -> None:
        """Remember a shard that is on the disk."""
        (self.path / _PROGRESS).mkdir(exist_ok=True)
        _write(self.path / _PROGRESS / f"{number:05}.json", asdict(line))

    def finish(self, lines: list[ShardLine], layers: list[Mapping[str, object]]) -> None:
        """Write the index of all shards, and take away what only a running job needs. Raises UsageError where shards are left over."""
        if self.is_complete:
            if len(lines) != len(self._done):
                raise UsageError(f"{self.path} holds states of more texts than these", hint="name another folder")
            return
        self._sweep()  # of actors that died meanwhile
        content = {"schema": SCHEMA, **self._job, "texts": sum(line.texts for line in lines), "layers": layers}
        _write(self.path / INDEX, {**content, "shards": [asdict(line) for line in lines]})
        self._forget_job()

    def _take(self) -> None:
        for unborn in self.path.glob(f".{_JOB}-*.tmp"):  # of a job that was killed as it began
            remove(unborn)
        index, job = self.path / INDEX, self.path / _JOB
        if not index.exists() and not job.exists():
            if any(self.path.iterdir()):
                raise UsageError(f"{self.path} holds something else", hint="name a folder that is empty or not there")
            _write(job, self._job)
            return
        self.is_complete = index.exists()
        content = read_index(self.path) if self.is_complete else _read(job)
        changed = differing(self._job, {key: content.get(key) for key in self._job})
        if changed:
            raise UsageError(f"{self.path} holds another probe: its {' and '.join(changed)} differ", hint="name another folder")
        self._done = dict(enumerate(map(ShardLine.from_json, content["shards"]))) if self.is_complete else dict(self._remembered())
        self._sweep()
        if self.is_complete:
            self._forget_job()

    def _sweep(self) -> None:
        """Take away what writers left that are dead."""
        sweep(self.path)
        for scratch in self.path.glob(".*.tmp/"):
            remove(scratch)

    def _forget_job(self) -> None:
        """Take away what only a running job needs."""
        remove(self.path / _PROGRESS)
        remove(self.path / _JOB)

    def _remembered(self) -> Iterator[tuple[int, ShardLine]]:
        for path in sorted((self.path / _PROGRESS).glob("*.json")):
            number = int(path.stem)
            if self.file_of(number).exists():
                yield number, ShardLine.from_json(_read(path))


def read_index(folder: Path) -> dict[str, Any]:
    """The index of an answer. Raises UsageError where there is none, or one of another kind."""
    if not (folder / INDEX).is_file():
        hint = (
            "the job is not done: run it again, and it goes on" if (folder / _JOB).exists() else "name what `probe-layers --output` wrote"
        )
        raise UsageError(f"{folder} holds no probe that is whole", hint=hint)
    content = _read(folder / INDEX)
    if content.get("schema") != SCHEMA:
        raise InvalidCheckpointError("is no index of a probe", file=str(folder / INDEX))
    return content


def _read(path: Path) -> dict[str, Any]:
    return dict(parse_object(read_small(path, str(path), limit=_MAX_JSON_BYTES), file=str(path)))


def _write(path: Path, content: Mapping[str, object]) -> None:
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def _lock(descriptor: int, path: Path) -> None:
    """Hold the folder until the descriptor is closed; on a file system without locks nobody is noticed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another process is writing to {path}", hint="wait for it, or name another folder") from None
    except OSError:
        return
