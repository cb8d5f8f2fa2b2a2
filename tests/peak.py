"""What loading a model and using it once takes, seen from outside the process: anonymous memory and pages of its weights, at their peak."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

CHILD = """
import json, sys, torch
from mlload.loader.loading import load
from mlload.loader.quantization.compiled import compiled
from mlload.loader.settings_mapping import build_settings, parse_settings

def run(settings):
    loaded = load(build_settings(parse_settings(settings)))
    with torch.no_grad():
        for _ in range(forwards):
            loaded.model(torch.arange(8)[None])
    return loaded

torch.set_num_threads(1)
warm, real, forwards = (json.loads(argument) for argument in sys.argv[1:])
run(warm)  # what is imported and set up once
for name in ("four_bit", "int8", "hqq_search", "hqq_codes"):  # which tiny is too small for
    compiled(name, torch.bfloat16)
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
loaded = run(real)
told = {
    "strategy": loaded.strategy.value,
    "predicted": loaded.prediction.peak_bytes,
    "precision": loaded.candidates[-1].precision if loaded.candidates else None,
}
sys.stdout.write(json.dumps(told) + "\\n")
"""


@dataclass
class Peak:
    """Bytes over what the process held before; what the process itself said."""

    anonymous: int
    pages: int
    told: dict[str, object]


def peak(folder: Path, *, forwards: int = 2, **settings: object) -> Peak:
    """Load `folder` as `settings` ask, and use it so often; after `tiny` in the same way but for any limit."""
    unlimited = {name: value for name, value in settings.items() if name not in ("memory", "max_memory")}
    arguments = [json.dumps({"model_name": name, **each}) for name, each in (("tiny", unlimited), (str(folder), settings))]
    arguments.append(json.dumps(forwards))
    with subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before, most, done = _anonymous(process.pid), Peak(0, 0, {}), threading.Event()

        def watch() -> None:
            while not done.is_set():
                most.anonymous = max(most.anonymous, _anonymous(process.pid) - before)
                most.pages = max(most.pages, _pages(process.pid, folder))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            most.told = json.loads(process.communicate("go\n")[0])
        finally:
            done.set()
            watcher.join()
    return most


def _anonymous(pid: int) -> int:
    try:
        return int(re.findall(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) * 1024
    except (OSError, IndexError):  # it has ended
        return 0


def _pages(pid: int, folder: Path) -> int:
    """Pages of files in `folder` that the process has in memory."""
    try:
        mappings = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text())
    except OSError:
        return 0
    return sum(int(re.findall(r"Rss:\s+(\d+)", mapping)[0]) * 1024 for mapping in mappings if str(folder) in mapping)
