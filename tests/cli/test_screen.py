"""What stands on a screen of some width, and what in a pipe: nothing is cut, no name is lost."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LLAMA_CONFIG, Outcome, llama_tensors, write_safetensors
from hub_faults import stall
from hub_server import hub

Run = Callable[..., Outcome]
LONG = "model.language_model.layers.0.block_sparse_moe.experts." + "deeper." * 9 + "weight"


def on_terminal(columns: int, *arguments: str | Path, **variables: str) -> str:
    """What `mlload inspect` writes to a terminal so many columns wide, without colours."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")} | {"TERM": "xterm"} | variables
    process = subprocess.Popen([sys.executable, "-m", "mlload", "inspect", *map(str, arguments)], stdout=slave, stderr=slave, env=env)
    os.close(slave)
    written = b""
    try:
        while part := os.read(master, 65536):
            written += part
    except OSError:  # the other end has been closed
        pass
    os.close(master)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r\n", "\n")


def test_nothing_is_cut_or_folded_in_a_pipe(run: Run, llama: Path) -> None:
    write_safetensors(llama / "x.safetensors", {LONG: ("F32", (3,))})
    assert LONG in run("inspect", llama, "--file", "x.safetensors", "--tensors").out.splitlines()[1]
    (llama / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"vocab_size": 11}))
    lines = run("inspect", llama).out.splitlines()
    assert "model-00002-of-00002.safetensors: lm_head.weight: has 10 rows, but the config's vocab_size is 11" in lines[-1]
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_names_are_whole_at_every_width(llama: Path, columns: int) -> None:
    listed = on_terminal(columns, llama, "--tensors").split()
    assert [name for name in listed if name.startswith(("model.", "lm_"))] == sorted(llama_tensors(), key=list(llama_tensors()).index)
    parts = on_terminal(columns, llama)
    assert "model.layers.0 to 1 " in parts or columns < 60
    assert "…" not in parts
    assert all(words in parts for words in ("1.18 K", "2.31 KiB"))


def test_a_narrow_terminal_loses_the_files_before_it_folds_the_lines(llama: Path) -> None:
    wide, narrow, narrower = (on_terminal(columns, llama, "*.0.mlp.up_proj.*") for columns in (120, 70, 50))
    assert re.search(r"^model\.layers\.0\.mlp\.up_proj\.weight +BF16 .* model-00001-of-00002\.safetensors$", wide, re.MULTILINE)
    assert re.search(r"^model\.layers\.0\.mlp\.up_proj\.weight +BF16 +\[16, 8\] +256 B$", narrow, re.MULTILINE)
    assert re.search(r"^model\.layers\.0\.mlp\.up_proj\.weight\n  BF16 +\[16, 8\] +256 B$", narrower, re.MULTILINE)


def test_a_hundred_thousand_tensors_are_listed_in_seconds(run: Run, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {f"experts.{number}.w": ("F32", (1,)) for number in range(90_000)})
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    lines = run("inspect", tmp_path, "--tensors").out.splitlines()
    assert len(lines) == 90_000 + 2
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun < 40  # 2 s here; 22 s as a table


def test_a_narrow_terminal_loses_bars_shares_and_dtypes_before_it_folds_names(llama: Path) -> None:
    titles = [
        next(line.split() for line in on_terminal(columns, llama).splitlines() if "parameters  " in line[5:]) for columns in (70, 55, 45)
    ]
    assert titles == [
        "part tensors parameters bytes share dtype".split(),
        "part tensors parameters bytes".split(),
        "part parameters bytes".split(),
    ]
    bars = [re.findall("█+", on_terminal(columns, llama)) for columns in (60, 80, 120)]
    assert [max(map(len, each), default=0) for each in bars] == [0, 12, 14]


def test_bars_where_the_encoding_has_none(run: Run, llama: Path) -> None:
    assert "87.6%  BF16   ##############\n" in run("inspect", llama, env={"PYTHONIOENCODING": "ascii"}).out


@pytest.mark.parametrize("arguments", [["--tensors"], ["--layers"], []])
def test_no_colour_where_none_is_wanted(run: Run, llama: Path, arguments: list[str]) -> None:
    assert "\x1b" not in run("inspect", llama, *arguments).out


def test_one_is_no_plural(run: Run, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": ("F32", (3,))})
    assert "1 tensor\n" in run("inspect", tmp_path).out
    assert "1 of 1 tensor, 3 elements" in run("inspect", tmp_path, "--tensors").out


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("q_proj", "no tensor matches 'q_proj'; '*q_proj*' matches 2 tensors"),
        ("model.layer.1.mlp.up_proj.weight", "nearest: model.layers.0.mlp.up_proj.weight"),
        ("nothing.*", "nearest: "),
        ("model-00001-of-00002.safetensors", "; it is a file, which --file names"),
    ],
)
def test_a_pattern_that_chooses_nothing_says_so_beside_the_answer(run: Run, llama: Path, pattern: str, words: str) -> None:
    outcome = run("inspect", llama, "--tensors", pattern, "--json")
    assert (outcome.code, outcome.json["tensor_table"]) == (0, [])
    assert words in outcome.err
    assert run("inspect", llama, pattern).out == "0 of 21 tensors, 0 elements, 0 B\n"


def test_a_long_wait_is_told_and_wiped_away(llama: Path, tmp_path: Path) -> None:
    with hub() as server:
        server.add("org/llama", llama)
        server.faults += [stall(6, times=1)]
        shown = on_terminal(80, "org/llama", HF_ENDPOINT=server.endpoint, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    wait, blanks, answer = shown.split("\r", 2)
    assert (wait, blanks) == ("reading org/llama ...", " " * len(wait))
    assert answer.startswith("llama  decoder-only")


@pytest.mark.parametrize("folder", ["cli", "loader"])
def test_it_runs_as_a_module_inside_its_own_folders(folder: str) -> None:
    where = Path(__file__).parents[2] / folder
    done = subprocess.run([sys.executable, "-m", "mlload", "inspect", "tiny"], cwd=where, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_code_beside_a_checkpoint_is_not_run(llama: Path) -> None:
    for name in ("inspect.py", "typer.py", "json.py"):
        (llama / name).write_text("raise SystemExit('run')")
    done = subprocess.run([sys.executable, "-m", "mlload", "inspect", "."], cwd=llama, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
