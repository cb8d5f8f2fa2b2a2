"""Whole processes timed from outside, in turn: wall seconds and peak resident memory of each run, medians of all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    """One finished process."""

    seconds: float
    peak_bytes: int
    output: str


@dataclass(frozen=True)
class Summary:
    """All runs of one command."""

    label: str
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        return median(run.seconds for run in self.runs)

    @property
    def fastest(self) -> float:
        return min(run.seconds for run in self.runs)

    @property
    def slowest(self) -> float:
        return max(run.seconds for run in self.runs)

    @property
    def peak_bytes(self) -> float:
        return median(run.peak_bytes for run in self.runs)


# A forked child's peak begins at its parent's size, so that a small process of its own starts the command and asks the kernel.
LAUNCHER = """
import os, sys, time
begun = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as report:
    report.write(f"{time.perf_counter() - begun} {usage.ru_maxrss * 1024}")
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run_once(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run the command to its end. Raises RuntimeError with what it said if it fails.

    It keeps its bytecode, as on a user's machine: compiling our files anew would add 25 ms, and nothing to the peers', which pip compiled.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.NamedTemporaryFile("r") as report:
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, report.name, *command]
        done = subprocess.run(launch, env=inherited | dict(env or {}), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
        seconds, peak = report.read().split()
    return Run(float(seconds), int(peak), done.stdout)


def run_in_turn(commands: Mapping[str, Sequence[str]], *, runs: int, env: Mapping[str, str] | None = None) -> dict[str, Summary]:
    """Every command `runs` times after one warm-up, A B A B, so that a drifting machine meets all of them alike."""
    finished: dict[str, list[Run]] = {label: [] for label in commands}
    for number in range(runs + 1):
        for label, command in commands.items():
            run = run_once(command, env)
            if number:
                finished[label].append(run)
    return {label: Summary(label, tuple(each)) for label, each in finished.items()}


def table(summaries: Mapping[str, Summary], *, reference: str) -> list[str]:
    """A Markdown table; the last column says how many times longer than `reference` each one took, pair by pair."""
    lines = ["| command | median ms | min to max ms | peak MiB | times as long |", "|---|---|---|---|---|"]
    for label, each in summaries.items():
        ratio = median(run.seconds / base.seconds for run, base in zip(each.runs, summaries[reference].runs, strict=True))
        spread = f"{each.fastest * 1e3:.0f} to {each.slowest * 1e3:.0f}"
        lines.append(f"| {label} | {each.seconds * 1e3:.0f} | {spread} | {each.peak_bytes / 2**20:.0f} | {ratio:.1f} |")
    return lines
