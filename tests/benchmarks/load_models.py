"""Loading whole models: the figures that are asked for, each one a call of `mlload bench-load` on a synthetic checkpoint."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from memory_group import memory_limit

MLLOAD = str(Path(sys.executable).parent / "mlload")
PEERS = "mlload,transformers,accelerate,safetensors,runai,fastsafetensors"

# What is shown, and the command that shows it. Where a run takes a minute there are few of them.
FIGURES = (
    ("Llama, 1.1 B, warm", f"--synthetic llama-1.1b --engine {PEERS} --runs 5"),
    ("Llama, 1.1 B, cold", f"--synthetic llama-1.1b --engine {PEERS} --page-cache cold --runs 3"),
    ("Mixture of 32 experts, 1.1 GB, warm", "--synthetic qwen3-moe-1gb --engine mlload,transformers --runs 5"),
    ("Mixture of 32 experts, 1.1 GB, cold", "--synthetic qwen3-moe-1gb --engine mlload,transformers --page-cache cold --runs 3"),
    ("Llama, 1.1 B, to float32", "--synthetic llama-1.1b --engine mlload,transformers --dtype float32 --runs 5 --predicted"),
    (
        "Llama, 1.1 B, quantized while loading",
        "--synthetic llama-1.1b --engine mlload,transformers --quantize nf4,int8 --runs 3 --predicted",
    ),
    ("Llama, 1.1 B, quantized weights from the cache", "--synthetic llama-1.1b --quantize none,nf4 --cache on --runs 3"),
    (
        "Llama, 1.1 B, streamed in 300 MiB",
        "--synthetic llama-1.1b --strategy full,streaming --resident 300MiB --prompt 'A shard is' --runs 3 --predicted",
    ),
    ("The seed's table: standard, quantized, low memory", "--synthetic llama-2-7b --strategy full,low-memory --quantize none,nf4 --runs 1"),
    ("Llama 2, 7 B, cold", "--synthetic llama-2-7b --engine mlload,transformers --page-cache cold --runs 5 --warm-up 0"),
)
# The same under a hard limit for memory and page cache, in GiB, which the one who measures keeps to, too.
LIMITED = (
    (
        "Llama 2, 7 B, streamed in 2 GiB, under a limit of 3 GiB",
        "--synthetic llama-2-7b --engine mlload,transformers --strategy streaming --resident 2GiB "
        "--prompt 'A shard is' --max-new-tokens 2 --runs 1 --warm-up 0 --page-cache cold --predicted",
        3,
    ),
)


def measure() -> Iterator[str]:
    """Every figure under its command, line by line. What an engine can't do stands below its table."""
    for title, options in FIGURES:
        yield from figure(title, options)
    for title, options, gib in LIMITED:
        try:
            with memory_limit(gib << 30) as limited:
                yield from figure(title, options, limited)
        except OSError as error:
            yield f"{title}: not measured, for there can be no such limit here ({error.strerror})"


def figure(title: str, options: str, before: Sequence[str] = ()) -> Iterator[str]:
    """A call of `mlload bench-load` and what it prints, started by the command `before` if that is given."""
    yield from (f"### {title}", "", f"`mlload bench-load {options}`", "")
    command = [*before, MLLOAD, "bench-load", *shlex.split(options), "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    yield from done.stdout.splitlines()
    yield from (f"\n{line}" for line in done.stderr.splitlines() if done.returncode)
    yield ""


if __name__ == "__main__":
    for line in measure():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
