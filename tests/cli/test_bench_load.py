"""`mlload bench-load` as a user runs it. Each run of an engine is a Python that imports torch, so that few are made."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import Outcome

from mlload.loader.bench.engines import ENGINES

Run = Callable[..., Outcome]
ONCE = ("--runs", "1", "--warm-up", "0")


def planted(folder: Path, engine: str, code: str) -> dict[str, str]:
    """An environment in which the measured process of `engine` runs `code` before all else."""
    lines = ("import os, signal, sys, time", f"if '\"engine\": \"{engine}\"' in ' '.join(sys.orig_argv):", f"    {code}")
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("\n".join(lines))
    return {"PYTHONPATH": str(folder)}


def test_two_engines_side_by_side_and_held_against_later(run: Run, tmp_path: Path) -> None:
    first = run("bench-load", "tiny", *ONCE, "--engine", "mlload,transformers", "--json", "--save", tmp_path / "base.json")
    assert first.code == 0, first.err
    ours, theirs = rows = first.json["rows"]
    assert [row["label"] for row in rows] == ["mlload", "transformers"]
    assert ours["predicted"]["anonymous"] == 0
    assert 1_249_280 <= ours["predicted"]["mapped"] < 2_000_000
    assert theirs["predicted"] is None
    assert theirs["ratio"]["median"] > 0
    for row in rows:
        (each,) = row["runs"]
        assert sum(each["phases"].values()) == pytest.approx(each["seconds"], abs=0.01)
        assert 0 < each["own_load_seconds"] <= each["load_seconds"] < each["own_seconds"] <= each["seconds"]
        assert each["imports"]["anonymous"] > 50_000_000
        assert each["resident_bytes"] >= each["peak"]["anonymous"]
        assert each["facts"]["answer"] == ours["runs"][0]["facts"]["answer"]
        assert row["timeline"][-1][0] == pytest.approx(each["seconds"], abs=0.2)
    saved = json.loads((tmp_path / "base.json").read_text())
    assert saved == first.json

    slow = planted(tmp_path / "plant", "mlload", "time.sleep(8)")
    later = run("bench-load", "tiny", *ONCE, "--compare", tmp_path / "base.json", "--csv", env=slow)
    assert later.code == 7
    assert later.err.splitlines()[-1].startswith(f"error: worse than {tmp_path}/base.json: mlload: seconds +")
    (line,) = csv.DictReader(later.out.splitlines())
    assert (line["label"], line["run"], line["problem"]) == ("mlload", "1", "")
    assert float(line["start_seconds"]) > 8


def test_a_synthetic_checkpoint_goes_on_from_a_prompt(run: Run) -> None:
    shape = ("--synthetic", "llama-tiny")
    outcome = run(
        "bench-load", *shape, *ONCE, "--prompt", "A", "--max-new-tokens", "3", "--page-cache", "cold", "--markdown", "--predicted"
    )
    assert outcome.code == 0, outcome.err
    titles, _, cells = [line for line in outcome.out.splitlines() if line.startswith("|")][:3]
    row = dict(zip(titles.split(" | "), cells.split(" | "), strict=True))
    assert cells.startswith("| mlload cold | ")
    assert float(row["first token s"]) > 0
    assert "MiB mapped" in row["predicted |"]
    assert run("bench-load", *shape, "--remove-synthetic").err == "1.76 MiB removed\n"
    assert run("bench-load", *shape, "--remove-synthetic").err == "0 B removed\n"


def test_peers_give_figures_or_name_their_package(run: Run) -> None:
    lacking = {name for name, engine in ENGINES.items() if engine.missing_package()}
    peers = [name for name in ENGINES if name not in ("mlload", "transformers", "accelerate", "safetensors")]
    outcome = run("bench-load", "tiny", *ONCE, "--engine", ",".join(peers), "--json")
    for row in outcome.json["rows"]:
        assert (row["problem"] is None) == (row["engine"] not in lacking)
        assert row["problem"] is None or row["problem"].endswith('is not installed; pip install "mlload[bench]"')
    assert outcome.code == (6 if lacking >= set(peers) else 0)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "the process was ended by SIGKILL (was there too little memory?)"),
        ("sys.stderr.write('the last word'); sys.stderr.flush(); os._exit(3)", "the process ended with code 3: the last word"),
    ],
)
def test_a_process_that_dies_is_told(run: Run, tmp_path: Path, code: str, words: str) -> None:
    outcome = run("bench-load", "tiny", *ONCE, "--engine", "safetensors", env=planted(tmp_path / "plant", "safetensors", code))
    assert (outcome.code, outcome.err) == (1, f"error: safetensors: {words}\n")
    assert f"safetensors: {words}" in outcome.out


def test_an_engine_that_cannot_is_told(run: Run) -> None:
    outcome = run("bench-load", "tiny", "--engine", "accelerate", "--quantize", "nf4")
    assert (outcome.code, outcome.err) == (2, "error: accelerate nf4: accelerate does not quantize while loading\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "what is to be loaded?; name a MODEL, or a shape with --synthetic"),
        (["tiny", "--synthetic", "llama-tiny"], 2, "what is to be loaded?"),
        (["--synthetic", "lama-tiny"], 2, "unknown shape 'lama-tiny'; did you mean 'llama-tiny'?"),
        (["tiny", "--remove-synthetic"], 2, "--remove-synthetic wants to know what"),
        (["tiny", "--engine", "vllm"], 2, "unknown engine 'vllm'; known: mlload, transformers"),
        (["tiny", "--engine", ","], 2, "an empty list makes no rows"),
        (["tiny", "--workers", "two"], 2, "'two' is no list of numbers"),
        (["tiny", "--max-regression", "much"], 2, "'much' is no share; write 10% or 0.1"),
        (["tiny", "--json", "--csv"], 2, "--json does not go with --csv"),
        (["tiny", "--plot", "picture.jpg"], 2, "'picture.jpg' is no picture; end its name in .png, .svg, .pdf"),
        (["tiny", "--save", "nowhere/base.json"], 2, "nowhere/base.json can't be written: nowhere is no folder to write in"),
        (["tiny", "--page-cache", "cold", "--cache", "on"], 2, "a cold page cache can't be had of quantized weights that are kept"),
        (["tiny", "--compare", "nothing.json"], 3, "no such file: nothing.json"),
        (["./nothing"], 3, "no such file or folder: ./nothing"),
    ],
)
def test_what_can_be_known_beforehand_costs_no_run(run: Run, arguments: list[str], code: int, words: str) -> None:
    outcome = run("bench-load", *arguments)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (code, 1, "")
    assert outcome.err.startswith(f"error: {words}")


def test_a_corrupt_baseline_is_found_before_anything_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text('{"schema": "mlload.bench/1", "rows": [], "calibration": [')
    outcome = run("bench-load", "tiny", "--compare", tmp_path / "base.json")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert "base.json: not valid JSON" in outcome.err


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_without_matplotlib_the_extra_is_named(run: Run) -> None:
    outcome = run("bench-load", "tiny", "--plot", "out.png")
    assert (outcome.code, outcome.err) == (6, 'error: pictures need matplotlib; pip install "mlload[plot]"\n')


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    env = os.environ | planted(tmp_path / "plant", "mlload", "open(os.environ['SIGN'], 'w').write(str(os.getpid())); time.sleep(100)")
    sign, scratch = tmp_path / "pid", tmp_path / "tmp"
    os.mkfifo(sign)
    scratch.mkdir()
    command = [sys.executable, "-m", "mlload", "bench-load", "tiny", "--save", tmp_path / "base.json"]
    env |= {"SIGN": str(sign), "TMPDIR": str(scratch)}
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        measured = sign.read_text()  # waits until the measured process writes
        it.send_signal(number)
        out, err = it.communicate(timeout=5)
    assert (it.returncode, out, err) == (code, "", "")
    assert not Path("/proc", measured).exists()
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "base.json").exists()
