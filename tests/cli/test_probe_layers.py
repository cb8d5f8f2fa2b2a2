"""`mlload probe-layers` as a user runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

import mlload

Run = Callable[..., Outcome]


def test_a_table_of_layers(run: Run) -> None:
    out = run("probe-layers", "tiny", "--text", "A shard is a file.", "--text", "A tensor", "--layers", "0,-1", "--max-length", "12").out
    assert out.startswith("LlamaModel  decoder-only  bfloat16 on cpu\ntexts  2 of 20 tokens; 1 cut to 12 tokens, 6 dropped\n")
    lines = out.splitlines()
    assert lines[-3].split() == ["layer", "shape", "norm", "mean", "spread", "similarity"]
    assert lines[-2].split()[:4] == ["embeddings", "20", "x", "128"]
    assert lines[-1].split()[0] == "6"


def test_a_column_is_kept_and_told_again(run: Run, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("number,body\n1,A shard\n2,A tensor\n")
    command = ["probe-layers", "tiny", "--file", "texts.csv", "--column", "body", "--pool", "last", "--output", "out"]
    assert "out: 1 shard of safetensors\n" in run(*command).out
    assert "out: 1 shard of safetensors, 2 texts were there\n" in run(*command).out
    assert mlload.open_probe(tmp_path / "out")[6].tensor().shape == (2, 128)
    outcome = run(*command, "--layers", "3")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "out holds another probe: its kept differ; name another folder" in outcome.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--text", "a", "--file", "b"], 2, "--text and --file both give texts"),
        (["--file", "nothing.txt"], 3, "nothing.txt can't be read"),
        (["--text", "a", "--format", "safetensor", "--output", "out"], 2, "did you mean 'safetensors'"),
    ],
)
def test_wrong_options_get_one_line(run: Run, options: list[str], code: int, words: str) -> None:
    outcome = run("probe-layers", "tiny", *options)
    assert (outcome.code, outcome.err.count("\n")) == (code, 1)
    assert words in outcome.err


def test_interrupted_it_leaves_nothing_half_and_goes_on(tmp_path: Path) -> None:
    texts = "\n".join("A shard is one of the weight files of a checkpoint." for _ in range(4_000))
    command = [sys.executable, "-m", "mlload", "probe-layers", "tiny", "--output", tmp_path / "out", "--texts-per-shard", "8"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(texts.encode())
        process.stdin.close()
        done = tmp_path / "out" / "progress" / "00001.json"
        while not done.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".tmp"]
    with pytest.raises(mlload.UsageError, match="the job is not done: run it again, and it goes on"):
        mlload.open_probe(tmp_path / "out")
