"""Runs cases of the corpus, each in a process and a folder of its own, and tells what it said, took and changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from hostile.case import Case
from hostile.corpus import CASES

_PROCESSES = 2
_Tree = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Outcome:
    """What a run said, took and changed."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    cpu: float
    peak: int
    before: _Tree
    after: _Tree


class _Warm:
    """A process with the command loaded (`warm.py`)."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, **request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> _Warm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.__exit__(kind, error, trace)


@contextmanager
def running(names: Iterable[str], base: Path) -> Iterator[dict[str, Future[Outcome]]]:
    """These cases, a few at once; what has not begun on leaving is dropped."""
    with _Warm() as one, _Warm() as other, ThreadPoolExecutor(_PROCESSES) as pool:
        free: SimpleQueue[_Warm] = SimpleQueue()
        free.put(one)
        free.put(other)
        yield {name: pool.submit(_outcome, CASES[name], base / str(number), free) for number, name in enumerate(names)}
        pool.shutdown(cancel_futures=True)


def _outcome(case: Case, place: Path, free: SimpleQueue[_Warm]) -> Outcome:
    """Write the case's folder, inspect it, look what has changed, and clear it away."""
    folder, out, err = place / "at" / "model", place / "out", place / "err"
    folder.mkdir(parents=True)
    case.write(folder)
    before = _tree(place / "at")
    warm = free.get()
    try:
        request = {"argv": arguments(case, folder), "folder": str(place / "at"), "environment": environment(place / "at")}
        measured = warm.run(**request, stdout=str(out), stderr=str(err))
    finally:
        free.put(warm)
    after = _tree(place / "at")
    stdout, stderr = (file.read_text("utf-8", "surrogateescape") for file in (out, err))
    shutil.rmtree(place)
    return Outcome(**measured, stdout=stdout, stderr=stderr, before=before, after=after)


def arguments(case: Case, folder: Path) -> list[str]:
    """Of `mlload`, for this case in this folder."""
    return ["inspect", case.reference.replace("{}", str(folder)), *case.args]


def environment(place: Path) -> dict[str, str]:
    """Nothing of the user's own, no network, and everything that may be written below `place`."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": str(place), "TMPDIR": str(place), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _tree(folder: Path) -> _Tree:
    """Everything below a folder, with mode, size and time of its last change."""
    found: _Tree = {}
    for entry in os.scandir(folder):
        status = entry.stat(follow_symlinks=False)
        found[entry.name] = (status.st_mode, status.st_size, status.st_mtime_ns)
        if entry.is_dir(follow_symlinks=False):
            found |= {f"{entry.name}/{name}": value for name, value in _tree(Path(entry.path)).items()}
    return found
