"""On Ray: the same bytes as one process writes, also when an actor is killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mlload
from mlload import load_model, probe_layers

PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
import mlload
model, plain, out = sys.argv[1:]
texts = [" ".join(["the bank of a river"] * (number % 9 + 1)) for number in range(160)]
asked = {"pool": "none", "texts_per_shard": 8, "batch_tokens": 64, "device": "cpu"}
mlload.probe_layers(model, texts, output=plain, **asked)

def kill():
    while not list(Path(out).glob("progress/*.json")):
        time.sleep(0.02)
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        if line.read_bytes().startswith(b"ray::MapWorker"):
            os.kill(int(line.parent.name), signal.SIGKILL)
            os.write(1, b"killed")
            return

threading.Thread(target=kill, daemon=True).start()
mlload.probe_layers(model, texts, output=out, actors=2, **asked)
"""


def test_an_actor_that_is_killed_costs_a_retry(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the ray extra")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, tiny_model("mbert"), tmp_path / "plain", tmp_path / "ray"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "killed"
    files = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "ray").iterdir()} == files


def test_what_actors_can_not_share(tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the ray extra")
    with pytest.raises(mlload.UsageError, match="these can be read once; give a file, or a list"):
        probe_layers("tiny", iter(["a"]), output=tmp_path / "out", actors=2)
    with pytest.raises(mlload.UsageError, match="give it: --output DIR"):
        probe_layers("tiny", ["a"], actors=2)
    with pytest.raises(mlload.UsageError, match="give its name, not a runner"):
        probe_layers(load_model(tiny_model("mbert"), device="cpu"), ["a"], output=tmp_path / "out", actors=2)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [path for path in sys.path if "site-packages" not in path])
    for module in [each for each in sys.modules if each.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(mlload.MissingDependencyError, match=r'pip install "mlload\[ray\]"'):
        probe_layers("tiny", ["a"], output=tmp_path / "out", actors=2)
