"""Running models larger than memory, a layer at a time: mlload beside the resident model and those who offload to disk.

Every run is a process of its own (layer_engines.py), in turn, timed inside after imports, its memory seen from outside. AirLLM and
llm-layer-collector are compared where they can be imported. `--shape`, `--only` and `--engine` measure a part.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from signal import SIGKILL
from statistics import median
from subprocess import PIPE, Popen

from layer_engines import ENGINES, Job
from memory_group import memory_limit

from mlload.loader.bench.page_cache import prepare, resident_pages
from mlload.loader.bench.synthetic import synthetic
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.tensors import TensorEntry

GIB, MIB = 1 << 30, 1 << 20
LIMIT = 3 * GIB  # of the whole process, page cache included, for what is larger than that
PEERS = {"airllm": "airllm", "peer example": "llm_layer_collector"}  # that may not be here
DISK_OFFLOADERS = ("device_map", "disk_offload", "airllm")


@dataclass(frozen=True)
class Part:
    """One table: the same work by several engines, or several works by one, against the line that is named first.

    `limit` bounds the memory of each process, page cache included; then, and if `is_cold`, no page of a file is in memory at first.
    """

    name: str
    title: str
    shape: str
    lines: Mapping[str, Job]
    is_cold: bool = False
    limit: int | None = None
    runs: int = 3


@dataclass(frozen=True)
class Found:
    """One run: seconds of loading and of the work, bytes of anonymous memory at most over the imports."""

    loading: float
    seconds: float
    anonymous: int


def _lines(engines: Sequence[str], **job: int) -> dict[str, Job]:
    """The same job for several engines; those that stream have a budget, by default of two units and the embedding."""
    resident = job.pop("resident", 300 * MIB)
    return {ENGINES[name].name: Job(name, "", **job, resident=resident if name in ("streamed", "nf4") else None) for name in engines}


def _parts() -> Iterator[Part]:
    small, large = "llama-1.1b", "llama-2-7b"
    offloaders = ("streamed", "free", "resident", *DISK_OFFLOADERS)
    works = {"16": {"tokens": 16}, "512": {"tokens": 512}, "generate": {"generated": 20}}
    words = {"16": "16 tokens", "512": "512 tokens", "generate": "20 tokens generated"}
    for name, work in works.items():
        yield Part(f"{name}-warm", f"{words[name]}, warm", small, _lines(offloaders, **work))
    for name, work in works.items():
        yield Part(
            f"{name}-cold",
            f"{words[name]}, cold",
            small,
            _lines(("streamed", "free", "resident", "device_map", "disk"), **work),
            is_cold=True,
        )
    # Not 512 tokens in NF4: bitsandbytes' loop for that takes longer than reading the weights unquantized.
    limited = {"shape": large, "limit": LIMIT, "runs": 1}
    for name, work in works.items():
        engines = ("streamed", "device_map", "disk") if name == "512" else ("streamed", "nf4", "device_map", "disk")
        lines = _lines(engines, **work, resident=1536 * MIB)
        yield Part(f"{name}-limited", f"{words[name]}, under a limit of 3 GiB", lines=lines, **limited)
    one = Job("streamed", "", resident=1536 * MIB)
    ten = {"one prompt of 16 tokens": one, "ten in one pass": replace(one, prompts=10)}
    yield Part("prompts-limited", "Ten prompts, under a limit of 3 GiB", lines=ten, **limited)
    yield Part("example", "The whole example of llm-layer-collector, warm", small, _lines(("example", "peer example"), tokens=5))


PARTS = {part.name: part for part in _parts()}


def measure(shape: str | None = None, only: Sequence[str] = (), engines: Sequence[str] = (), runs: int | None = None) -> Iterator[str]:
    """The tables, line by line: all, or those of a shape, or those that are named, with some engines or all."""
    for part in PARTS.values():
        if shape in (None, part.shape) and (not only or part.name in only):
            lines = {name: job for name, job in part.lines.items() if not engines or job.engine in engines}
            yield from _table(replace(part, lines=lines, runs=runs or part.runs))
    if shape in (None, "llama-2-7b") and (not only or "layer" in only):
        yield from _one_layer("llama-2-7b", runs or 3)


def _table(part: Part) -> Iterator[str]:
    folder = synthetic(part.shape)
    layer = sum(entry.nbytes for entry in _layers(folder)[0])
    found = _found(part, folder)
    first = next(iter(found))
    yield from ("", f"### {part.shape}, {part.title}", "")
    yield "| | seconds | to load | times as long | anonymous MiB over the imports | in layers |"
    yield "|---|---|---|---|---|---|"
    for name, runs in found.items():
        if isinstance(runs, str):
            yield f"| {name} | {runs} | | | | |"
            continue
        seconds, loading, anonymous = (median(getattr(run, key) for run in runs) for key in ("seconds", "loading", "anonymous"))
        base = found[first]
        ratio = "" if isinstance(base, str) else f"{median(a.seconds / b.seconds for a, b in zip(runs, base, strict=True)):.2f}"
        yield f"| {name} | {seconds:.2f} | {loading:.2f} | {ratio} | {anonymous / MIB:.0f} | {anonymous / layer:.1f} |"


def _found(part: Part, folder: Path) -> dict[str, list[Found] | str]:
    """The runs of each line, in turn; in their place why there are none."""
    found: dict[str, list[Found] | str] = {}
    shards = sorted(folder.glob("*.safetensors"))
    for _ in range(part.runs):
        for name, job in part.lines.items():
            there = found.setdefault(name, [] if _is_here(job) else "not installed")
            if isinstance(there, str):
                continue
            once = part.is_cold or part.limit is not None
            asked = replace(job, folder=str(folder), warm_up=not once, rounds=1 if once else job.rounds)
            try:
                there.append(_run(asked, shards, part))
            except (RuntimeError, OSError) as error:
                found[name] = str(error)
    return found


def _is_here(job: Job) -> bool:
    return job.engine not in PEERS or find_spec(PEERS[job.engine]) is not None


def _run(job: Job, shards: Sequence[Path], part: Part) -> Found:
    with ExitStack() as stack:
        before = [] if part.limit is None else stack.enter_context(memory_limit(part.limit))
        prepare(shards, "cold" if part.is_cold or part.limit is not None else "warm")
        return _watched([*before, sys.executable, str(Path(__file__).with_name("layer_engines.py")), json.dumps(asdict(job))])


def _watched(command: Sequence[str]) -> Found:
    """Start the process, look at its memory from the end of its imports on, and hear what it found."""
    with tempfile.TemporaryFile("w+") as errors, Popen(command, stdin=PIPE, stdout=PIPE, stderr=errors, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answer, peak = "", None
        if process.stdout.readline() == "imported\n":
            peak = _Peak(process.pid)
            process.stdin.write("\n")
            process.stdin.flush()
            answer = process.stdout.read()
        if process.wait() or peak is None:
            errors.seek(0)
            said = errors.read().strip().splitlines()
            raise RuntimeError("killed: too little memory" if process.returncode == -SIGKILL else said[-1][:160] if said else "failed")
        return Found(**json.loads(answer), anonymous=peak.growth)


class _Peak(threading.Thread):
    """The highest anonymous memory of a process over what it was at first, looked at until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._first = self._highest = self._anonymous()
        self.start()

    @property
    def growth(self) -> int:
        self.join()
        return self._highest - self._first

    def run(self) -> None:
        while now := self._anonymous():
            self._highest = max(self._highest, now)
            time.sleep(0.01)

    def _anonymous(self) -> int:
        """Nothing once it has ended."""
        try:
            lines = self._status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def _layers(folder: Path) -> list[list[TensorEntry]]:
    """The tensors of each layer."""
    stack = Checkpoint.open(folder).architecture.structure.main
    assert stack is not None
    return [list(stack.layers[number].values()) for number in sorted(stack.layers)]


def _one_layer(shape: str, runs: int) -> Iterator[str]:
    """A layer alone, cold; beside it reading as many bytes of another one, and what is in memory of the files afterwards."""
    folder = synthetic(shape)
    layers, shards = _layers(folder), sorted(folder.glob("*.safetensors"))
    middle, found = len(layers) // 2, list[tuple[float, float, int, int]]()
    command = [sys.executable, str(Path(__file__).with_name("layer_engines.py"))]
    for _ in range(runs):
        prepare(shards, "cold")
        job = Job("layer", str(folder), warm_up=False, rounds=1)
        seconds = _watched([*command, json.dumps(asdict(job))]).seconds
        pages = {shard.name: resident_pages(shard) for shard in shards}
        others = [entry for number, layer in enumerate(layers) if number != middle for entry in layer]
        in_memory = _in_memory(layers[middle], pages), _in_memory(others, pages)
        found.append((seconds, _reading(layers[-1], folder), *in_memory))
    seconds, reading, own, others = (median(column) for column in zip(*found, strict=True))
    nbytes = sum(entry.nbytes for entry in layers[middle])
    yield from ("", f"### {shape}, a layer alone from `LlmLayerCollector`, cold", "")
    yield f"Its {nbytes:,} bytes are there, each looked at, after {seconds:.3f} s; reading as many of another layer takes {reading:.3f} s,"
    yield f"so that it takes {seconds / reading:.2f} times as long. In memory afterwards: {own:,} bytes of it, {others:,} of other layers."


def _in_memory(entries: Iterable[TensorEntry], pages: Mapping[str, bytes]) -> int:
    """Bytes of whole pages of these tensors that are in the page cache."""
    total = 0
    for entry in entries:
        first, last = -(-entry.offset // mmap.PAGESIZE), (entry.offset + entry.nbytes) // mmap.PAGESIZE
        total += pages[entry.file][first:last].count(1) * mmap.PAGESIZE
    return total


def _reading(entries: Iterable[TensorEntry], folder: Path) -> float:
    """Seconds that reading these tensors from the disk takes."""
    buffer = bytearray(8 * MIB)
    begun = time.perf_counter()
    for entry in sorted(entries, key=lambda entry: (entry.file, entry.offset)):
        with (folder / entry.file).open("rb", buffering=0) as file:
            for start in range(0, entry.nbytes, len(buffer)):
                length = min(len(buffer), entry.nbytes - start)
                os.preadv(file.fileno(), [memoryview(buffer)[:length]], entry.offset + start)
    return time.perf_counter() - begun


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted({part.shape for part in PARTS.values()}))
    parser.add_argument("--only", action="append", default=[], choices=[*PARTS, "layer"])
    parser.add_argument("--engine", action="append", default=[], choices=ENGINES)
    parser.add_argument("--runs", type=int, help="how many processes for each line")
    asked = parser.parse_args()
    for line in measure(asked.shape, asked.only, asked.engine, asked.runs):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
