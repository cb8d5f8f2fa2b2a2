"""One run: a fresh process carries out a job while it is watched."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from ..errors import MlloadError
from ..memory import Memory
from ..text import printable
from .job import Job
from .watch import Sample, Watch, watching

_GRAIN = 0.006  # seconds between two looks while weights are read: more of them would take more than a hundredth of a core
_COARSE_GRAIN = 0.02  # while Python imports
_MOST_POINTS = 200  # of a run's memory over time, in a report
_LEAST = 0.001  # seconds that anything takes: what was waited is estimated
_LAST_WORDS = 4096  # bytes of what a process said before it died
_PROGRAM = (sys.executable, "-P", "-W", "ignore", "-m", "mlload.loader.bench.child")


@dataclass(frozen=True)
class Run:
    """What one process took.

    `seconds`: from its start until its model gave the first answer, `load_seconds` of them without the interpreter's start and the
    imports; `waited` and `load_waited` of these the time in which it wanted a core and others had them. `processor_seconds` of all threads.
    `imports`: memory without any for weights, `peak` the highest of each kind, `resident` of all kinds at once, by the
    kernel. `read_bytes` came from storage. `timeline`: seconds, anonymous and mapped bytes. `facts`: what the engine told.
    """

    seconds: float
    load_seconds: float
    waited: float
    load_waited: float
    processor_seconds: float
    phases: Mapping[str, float]
    imports: Memory
    peak: Memory
    resident: int
    read_bytes: int
    timeline: tuple[tuple[float, int, int], ...]
    facts: Mapping[str, object]

    @property
    def own_seconds(self) -> float:
        """Seconds less those that it waited for a core: what is compared."""
        return max(self.seconds - self.waited, _LEAST)

    @property
    def own_load_seconds(self) -> float:
        """The same of loading."""
        return max(self.load_seconds - self.load_waited, _LEAST)


class RunFailedError(MlloadError):
    """A run gave no figures. `code`: what the engine's error would end a command with; 1 where its process died."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def run(job: Job) -> Run:
    """Carry out `job` in a process of its own. Raises RunFailedError; whatever happens, no process is left."""
    with tempfile.TemporaryFile() as words, _child(job, words) as (process, begun, messages):
        story = _Story()
        with watching(process.pid) as watch:
            _follow(watch, messages, story)
            if story.is_whole:
                return _measured(story, watch, begun)
        if "error" in story.facts:
            raise RunFailedError(str(story.facts["error"]), code=int(str(story.facts["code"])))
        raise RunFailedError(_death(process.wait(), words))


@dataclass
class _Story:
    """What the child has told so far."""

    phases: dict[str, float] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return "end" in self.facts

    @property
    def is_over(self) -> bool:
        return self.is_whole or "error" in self.facts

    def hear(self, line: bytes) -> None:
        message = json.loads(line)
        if "phase" in message:
            name = message["phase"]
            self.phases[name] = self.phases.get(name, 0.0) + message["seconds"]
            self.ends[name] = message["at"]
        else:
            self.facts |= message


@contextmanager
def _child(job: Job, words: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], float, int]]:
    """The process, when it was started, and where it reports to. It and all that it started are ended with the context."""
    reading, writing = os.pipe()
    begun = time.monotonic()
    try:
        process = subprocess.Popen(
            [*_PROGRAM, str(writing), job.to_text()],
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=words,
            pass_fds=(writing,),
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        yield process, begun, reading
    finally:
        with process, suppress(ProcessLookupError):  # where all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
        os.close(reading)


def _follow(watch: Watch, messages: int, story: _Story) -> None:
    """Look at the process until its story is over, or it is: at a fine grain from the end of its imports on."""
    unread = b""
    while not story.is_over:
        grain = _GRAIN if "import" in story.ends else _COARSE_GRAIN
        is_told = bool(select.select([messages], [], [], grain)[0])
        if is_told:
            heard = os.read(messages, 1 << 16)
            if not heard:
                return
            *lines, unread = (unread + heard).split(b"\n")
            for line in lines:
                story.hear(line)
        watch.look(time.monotonic(), closely=is_told)


def _measured(story: _Story, watch: Watch, begun: float) -> Run:
    imported, answered = story.ends["import"], story.ends["first_forward"]
    imports, end = watch.sample_at(imported), watch.sample_at(answered)
    facts = story.facts
    return Run(
        seconds=answered - begun,
        load_seconds=answered - imported,
        waited=end.held_up,
        load_waited=end.held_up - imports.held_up,
        processor_seconds=watch.processor_seconds(),
        phases=story.phases | {"start": story.ends["start"] - begun},
        imports=Memory(imports.anonymous - int(str(facts.get("prepared", 0))), imports.mapped),
        peak=watch.peak + Memory(device=int(str(facts["device"]))),
        resident=watch.highest_resident,
        read_bytes=watch.bytes_from_storage(),
        timeline=_timeline(watch.samples, begun),
        facts={name: value for name, value in facts.items() if name not in ("end", "device", "prepared")},
    )


def _timeline(samples: list[Sample], begun: float) -> tuple[tuple[float, int, int], ...]:
    """Points at about equal distances, each the highest since the one before."""
    width = -(-len(samples) // _MOST_POINTS)
    groups = (samples[start : start + width] for start in range(0, len(samples), width))
    return tuple(
        (round(group[-1].at - begun, 4), max(each.anonymous for each in group), max(each.mapped for each in group)) for group in groups
    )


def _death(code: int, words: IO[bytes]) -> str:
    """How a process ended that told nothing."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}" + (" (was there too little memory?)" if name == "SIGKILL" else "")
    words.seek(max(0, words.seek(0, os.SEEK_END) - _LAST_WORDS))
    said = words.read().decode(errors="replace").strip().splitlines()
    return f"the process ended with code {code}" + (f": {printable(said[-1], limit=200)}" if said else "")
