"""Every case of the corpus through the command line, in a process of its own that is watched from outside."""

from __future__ import annotations

import json
import os
import pickle
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hostile.case import Case
from hostile.corpus import CASES
from hostile.running import Outcome, arguments, environment, running

_MOST_CPU_SECONDS = 12.0  # on an idle machine none takes more than 3, beside other work up to 10; the promise is 1, but for 90,000 tensors
_MOST_SECONDS = 30.0  # waiting for something that never comes; a busy machine takes its time
_MOST_BYTES = 300_000_000

# Of each kind one that is also run by `python -m mlload`, with nothing loaded before.
_COLD = (
    "llama",
    "overlap",
    "model.safetensors-is-a-fifo",
    "config-text-config-100000-deep",
    "zip-bomb",
    "gguf",
    "reference-empty",
    "remote-code",
)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    """All chosen cases, running a few at once."""
    chosen = {item.name.removeprefix("test_case[")[:-1] for item in request.session.items if item.name.startswith("test_case[")}
    with running([name for name in CASES if name in chosen], tmp_path_factory.mktemp("hostile")) as outcomes:
        yield outcomes


@pytest.mark.parametrize("name", list(CASES))
def test_case(name: str, outcomes: dict[str, Future[Outcome]]) -> None:
    case, outcome = CASES[name], outcomes[name].result()
    said = outcome.stdout[-2000:] + outcome.stderr[-2000:]
    assert outcome.code == case.code, said
    assert "Traceback" not in said
    assert not _unsafe(outcome.stdout + outcome.stderr)
    _check_answer(case, outcome)
    _check_error(case, outcome.stderr)
    assert outcome.after == outcome.before
    assert outcome.cpu < _MOST_CPU_SECONDS
    assert outcome.seconds < _MOST_SECONDS
    assert outcome.peak < _MOST_BYTES


def _unsafe(text: str) -> set[str]:
    """Characters that could move the cursor, hide text or turn it round."""
    return {char for char in set(text) - {"\n"} if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}


def _check_answer(case: Case, outcome: Outcome) -> None:
    if case.code not in (0, 7):
        assert outcome.stdout == ""
    elif "--json" not in case.args:
        assert all(word in outcome.stdout for word in case.words), outcome.stdout[-2000:]
    else:
        report = json.loads(outcome.stdout, parse_constant=pytest.fail)
        assert report["schema"] == "mlload.inspect/1"
        assert case.code == 7 or {problem["code"] for problem in report["problems"]} == set(case.words)


def _check_error(case: Case, line: str) -> None:
    if case.code == 0:
        # A pattern that chooses nothing says so.
        assert line == "" or (line.startswith("no tensor matches ") and line.count("\n") == 1 and "0 of 3" in case.words)
        return
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert len(line) < 2000
    assert all(word in line for word in case.words), line
    if case.code == 4:
        assert Path(line.removeprefix("error: ").split(": ")[0]).name == case.words[0]


@pytest.mark.parametrize("name", _COLD)
def test_case_started_cold(name: str, tmp_path: Path) -> None:
    case, folder = CASES[name], tmp_path / "model"
    folder.mkdir()
    case.write(folder)
    command = [sys.executable, "-m", "mlload", *arguments(case, folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path), timeout=30)
    assert done.returncode == case.code, done.stderr
    _check_error(case, done.stderr)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["", "model.safetensors", "config.json"])
def test_what_may_not_be_read_is_not_found(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    CASES["config-llama"].write(folder)
    (folder / name).chmod(0)
    done = subprocess.run([sys.executable, "-m", "mlload", "inspect", str(folder)], capture_output=True, text=True)
    (folder / name).chmod(0o700)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert (name or "model") in done.stderr


def test_a_terminal_gets_colours_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    CASES["name-ansi-title"].write(folder)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "mlload", "inspect", str(folder)]
    subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=follower, cwd=tmp_path, env={**environment(tmp_path), "TERM": "xterm"}, check=True
    )
    os.close(follower)
    shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "\x1b[1m" in shown or "\x1b[1;" in shown
    assert not _unsafe(re.sub(r"\x1b\[[\d;]*m", "", shown).replace("\r\n", "\n"))


def test_what_would_run_does_run(tmp_path: Path) -> None:
    """Unpickling leaves the mark that the cases look for, so that its absence proves something."""
    folder = tmp_path / "model"
    folder.mkdir()
    CASES["pickle-alone-runs"].write(folder)
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "canary").exists()
