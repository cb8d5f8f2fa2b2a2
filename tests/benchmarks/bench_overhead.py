"""What measuring costs: the same loads by `bench-load` and by a bare script, in turn, and what the one who watches takes of a core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from mlload.configs import FOLDER
from mlload.loader.bench.case import Case
from mlload.loader.bench.job import Job
from mlload.loader.bench.run import run
from mlload.loader.bench.spread import Ratio
from mlload.loader.bench.synthetic import synthetic

# As a user would write it, with the same class and the same first question; told by the same clock.
BARE = """
import time, sys
import transformers
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
import torch
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
model_class = getattr(transformers, config.architectures[0])
model = model_class.from_pretrained(sys.argv[1], dtype="auto", device_map={"": "cpu"})
with torch.inference_mode():
    model(input_ids=torch.tensor([[1]]))
sys.stdout.write(str(time.monotonic()))
sys.stdout.flush()
import os
os._exit(0)
"""


def measure(rounds: int = 20, shapes: tuple[str, ...] = ("tiny", "llama-1.1b")) -> Iterator[str]:
    """The table, line by line."""
    yield f"{rounds} rounds of each, in turn. Seconds from a process's start to its first answer; the watcher's processor time."
    yield ""
    yield "| checkpoint | bare script s | under bench-load s | ratio, pair by pair (95 %) | watcher, of a core | of the machine |"
    yield "|---|---|---|---|---|---|"
    for shape in shapes:
        folder = FOLDER / "tiny" if shape == "tiny" else synthetic(shape)
        pairs: list[tuple[float, float]] = []
        watching: list[float] = []
        for _ in range(rounds):
            bare = bare_seconds(folder)
            watched, cost = watched_seconds(folder)
            pairs.append((watched, bare))
            watching.append(cost / watched)
        ratio, share = Ratio.of(pairs), median(watching)
        interval = f"{ratio.median:.3f}" + ("" if ratio.low is None else f" ({ratio.low:.3f} to {ratio.high:.3f})")
        seconds = " | ".join(f"{median(pair[place] for pair in pairs):.2f}" for place in (1, 0))
        yield f"| {shape} | {seconds} | {interval} | {share:.2%} | {share / len(os.sched_getaffinity(0)):.2%} |"


def bare_seconds(folder: Path) -> float:
    """The script's own."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BARE, str(folder)], capture_output=True, text=True, check=True)
    return float(done.stdout) - begun


def watched_seconds(folder: Path) -> tuple[float, float]:
    """The same as a run of `bench-load`, and processor seconds of this process, which watches it."""
    files = tuple(sorted(path.name for path in folder.glob("*.safetensors")))
    begun = time.process_time()
    done = run(Job(Case("transformers", device="cpu"), str(folder), files))
    return done.seconds, time.process_time() - begun


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    sys.stdout.writelines(f"{line}\n" for line in measure(rounds, tuple(sys.argv[2:]) or ("tiny", "llama-1.1b")))
