"""`bench-load --compare` put to the test: how often it sees a slowdown that was planted, and how often one that is not there.

The slowdown is a sleep that the measured process of mlload meets before all else, put in its way by Python's own sitecustomize.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

MLLOAD = str(Path(sys.executable).parent / "mlload")
EXCEEDED = 7
PLANT = """
import sys, time
if '"engine": "mlload"' in " ".join(sys.orig_argv):
    time.sleep({seconds})
"""


@dataclass(frozen=True)
class Try:
    """One comparison: whether the gate closed, how many rounds it took to say so, and the ratio that it saw."""

    closed: bool
    rounds: int
    ratio: float
    seconds: float


def measure(tries: int = 20, runs: int = 5, slowdown: float = 0.2, model: str = "tiny") -> Iterator[str]:
    """The table, line by line."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        baseline = folder / "baseline.json"
        bench(model, "--runs", str(runs), "--save", str(baseline))
        (row,) = json.loads(baseline.read_text())["rows"]
        pause = slowdown * median(run["own_seconds"] for run in row["runs"])
        (folder / "sitecustomize.py").write_text(PLANT.format(seconds=pause))
        options = (model, "--runs", str(runs), "--warm-up", "0", "--compare", str(baseline), "--max-regression", "10%")
        without, planted = [], []
        for _ in range(tries):  # in turn, so that a drifting machine meets both alike
            without.append(attempt(options, {}))
            planted.append(attempt(options, {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}))
    load = f"load {os.getloadavg()[2]:.1f} on {len(os.sched_getaffinity(0))} cores"
    yield f"{tries} sessions each of {runs} runs (more where in doubt) against one baseline of {runs}, limit 10 %, {load}:"
    yield ""
    yield "| planted | exit 7 | seen, smallest to largest | rounds, median and most | seconds a session |"
    yield "|---|---|---|---|---|"
    for title, done in ((f"{slowdown:.0%} ({pause:.2f} s)", planted), ("nothing", without)):
        seen = f"{min(each.ratio for each in done) - 1:+.1%} to {max(each.ratio for each in done) - 1:+.1%}"
        rounds = f"{median(each.rounds for each in done):.0f}, {max(each.rounds for each in done)}"
        seconds = f"{median(each.seconds for each in done):.0f}"
        yield f"| {title} | {sum(each.closed for each in done)} of {tries} | {seen} | {rounds} | {seconds} |"


def attempt(options: Sequence[str], env: dict[str, str]) -> Try:
    """One session against the baseline."""
    begun = time.perf_counter()
    code, out = bench(*options, "--json", env=env)
    answer = json.loads(out)
    (verdict,) = [each for each in answer["comparison"]["verdicts"] if each["measure"] == "seconds"]
    done = Try(code == EXCEEDED, len(answer["rows"][0]["runs"]), verdict["ratio"], time.perf_counter() - begun)
    sys.stderr.write(f"{'planted' if env else 'nothing'}: {done}\n")
    return done


def bench(*options: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit code and the answer. Raises RuntimeError for a code that is no answer."""
    done = subprocess.run([MLLOAD, "bench-load", *options], env=os.environ | (env or {}), capture_output=True, text=True, check=False)
    if done.returncode not in (0, EXCEEDED):
        raise RuntimeError(done.stderr)
    return done.returncode, done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slowdown", type=float, default=0.2)
    parser.add_argument("--model", default="tiny")
    asked = parser.parse_args()
    sys.stdout.writelines(f"{line}\n" for line in measure(asked.tries, asked.runs, asked.slowdown, asked.model))
