"""`mlload inspect` of a hub id, beside peers that read no local folder: the server is a process of its own, slowed by 0 or 50 ms."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from processes import run_once
from shapes import write_llama_8b

import mlload

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
REPO = "org/llama-8b"
COMMANDS = {
    "mlload inspect ID": [str(BIN / "mlload"), "inspect", REPO],
    "mlload inspect ID --json": [str(BIN / "mlload"), "inspect", REPO, "--json"],
    "hf-mem": [sys.executable, str(HERE / "hf_mem_at.py"), "--model-id", REPO],
    "accelerate estimate-memory": [str(BIN / "accelerate"), "estimate-memory", REPO, "--library_name", "transformers"],
    "huggingface_hub get_safetensors_metadata": [
        sys.executable,
        "-c",
        f"from huggingface_hub import get_safetensors_metadata as g; g({REPO!r})",
    ],
}


@dataclass(frozen=True)
class Visit:
    """One run of a client: what it took, and what the server saw."""

    seconds: float
    network_seconds: float  # from the first request's arrival to the last answer's end
    requests: int
    bytes_sent: int


def visit(command: Sequence[str], folder: Path, delay_ms: int) -> Visit:
    """Run the client with an empty cache against a fresh server."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        start = [sys.executable, str(HERE.parent / "hub_server.py"), "--repo", f"{REPO}={folder}", "--delay-ms", str(delay_ms)]
        server = subprocess.Popen([*start, "--port-file", f"{scratch}/port", "--log-file", str(log)], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        run = run_once(command, {"HF_ENDPOINT": endpoint, "HF_HOME": f"{scratch}/hf", "HF_HUB_OFFLINE": "0"})
        server.send_signal(signal.SIGTERM)
        server.wait()
        server.stdout.close()
        records = [json.loads(line) for line in log.read_text().splitlines()]
    arrivals = [record["at"] for record in records]
    return Visit(run.seconds, max(arrivals) - min(arrivals) + delay_ms / 1e3, len(records), sum(record["bytes"] for record in records))


def measure(delay_ms: int, runs: int = 15) -> Iterator[str]:
    """The table, line by line."""
    with tempfile.TemporaryDirectory() as folder:
        write_llama_8b(Path(folder))
        header_bytes = mlload.inspect(folder).header_bytes
        visits: dict[str, list[Visit]] = {label: [] for label in COMMANDS}
        for number in range(runs + 1):
            for label, command in COMMANDS.items():
                each = visit(command, Path(folder), delay_ms)
                if number:
                    visits[label].append(each)
    yield f"4 shards with {header_bytes:,} bytes of headers, {delay_ms} ms added to every request, empty cache, {runs} runs each in turn."
    yield "Network: from the first request's arrival to the last answer. Connections cost nothing on loopback."
    yield ""
    yield "| client | whole process, median ms | min to max ms | network, ms | round trips | requests | KB read | times the headers |"
    yield "|---|---|---|---|---|---|---|---|"
    for label, each in visits.items():
        walls, network = [run.seconds * 1e3 for run in each], median(run.network_seconds for run in each) * 1e3
        sent = median(run.bytes_sent for run in each)
        cells = (
            label,
            f"{median(walls):.0f}",
            f"{min(walls):.0f} to {max(walls):.0f}",
            f"{network:.0f}",
            f"{network / delay_ms:.1f}" if delay_ms else "-",
            f"{median(run.requests for run in each):.0f}",
            f"{sent / 1e3:.0f}",
            f"{sent / header_bytes:.1f}",
        )
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for delay in (0, 50):
        sys.stdout.writelines(f"{line}\n" for line in measure(delay))
