"""`mlload inspect` on this machine's disk, beside peers on the same job: an 8B-shaped checkpoint, and one of 100,000 tensors."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from processes import run_in_turn, table
from shapes import write_llama_8b, write_many

BIN = Path(sys.executable).parent
MLLOAD = str(BIN / "mlload")


def measure(runs: int = 9) -> Iterator[str]:
    """The tables, line by line."""
    with tempfile.TemporaryDirectory() as scratch:
        llama, many = Path(scratch) / "llama-8b", Path(scratch) / "many"
        tensors = write_llama_8b(llama), write_many(many)
        yield f"An 8B-shaped checkpoint ({tensors[0]} tensors in 4 shards), warm, {runs} runs each in turn:"
        yield ""
        yield from table(run_in_turn(_local_commands(llama), runs=runs), reference="mlload inspect DIR")
        yield ""
        yield f"{tensors[1]:,} tensors in 400 shards:"
        yield ""
        commands = {"mlload inspect DIR": [MLLOAD, "inspect", str(many)], "huggingface_hub, the same headers": _hub_headers(many)}
        yield from table(run_in_turn(commands, runs=3), reference="mlload inspect DIR")
    yield ""
    yield "Start-up:"
    yield ""
    yield from table(
        run_in_turn({"mlload --help": [MLLOAD, "--help"], "hf --help": [str(BIN / "hf"), "--help"]}, runs=runs), reference="mlload --help"
    )


def _local_commands(folder: Path) -> dict[str, list[str]]:
    return {
        "mlload inspect DIR": [MLLOAD, "inspect", str(folder)],
        "mlload inspect DIR --json": [MLLOAD, "inspect", str(folder), "--json"],
        "huggingface_hub, the same headers": _hub_headers(folder),
    }


def _hub_headers(folder: Path) -> list[str]:
    code = f"from huggingface_hub import get_local_safetensors_metadata as read; read({str(folder)!r}).parameter_count"
    return [sys.executable, "-c", code]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in measure())
