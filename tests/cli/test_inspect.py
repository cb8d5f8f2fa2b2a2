"""`mlload inspect` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LLAMA_CONFIG, Outcome, llama_tensors, write_safetensors

Run = Callable[..., Outcome]


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A Llama in one file, with tied embeddings and a longer name that must not break a table."""
    folder = tmp_path / "single"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", llama_tensors(head=False) | {"[/red]\x1b[31m": ("F32", (3,))})
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"tie_word_embeddings": True}))
    return folder


def test_tables_tell_family_sizes_and_parts(run: Run, llama: Path) -> None:
    lines = run("inspect", llama).out.splitlines()
    assert lines[0].split() == "llama decoder-only LlamaForCausalLM".split()
    text = "\n".join(lines)
    for words in (
        "1.35 K (1,352)",
        "2.64 KiB (2,704 bytes)",
        "model.layers.0 to 1",
        "context     64 tokens",
        "32 B a token in BF16",
        "no problems found",
    ):
        assert words in text


def test_without_a_config_only_likeness_is_claimed(run: Run, llama: Path) -> None:
    (llama / "config.json").unlink()
    assert run("inspect", llama).out.startswith("llama-like (by tensor names)  decoder-only\n")


def test_what_is_no_model_is_said_to_be_unknown(run: Run, tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "numbers.safetensors", {"a.weight": ("F32", (4, 2))})
    assert run("inspect", file).out.startswith("unknown family  of unknown kind\n")
    answer = run("inspect", file, "--json").json
    assert [answer[key] for key in ("kind", "norm_type", "activation")] == [None, None, None]


def test_layers_are_told_apart_by_stack(run: Run, tmp_path: Path) -> None:
    layer = {"attn.q.weight": ("F32", (4, 4)), "norm.weight": ("F32", (4,))}
    stacks = {
        f"{stack}.layers.{index}.{name}": each
        for stack, count in (("encoder", 3), ("decoder", 2))
        for index in range(count)
        for name, each in layer.items()
    }
    write_safetensors(tmp_path / "model.safetensors", stacks | {"shared.weight": ("F32", (9, 4))})
    assert "layers      encoder 3 + decoder 2, hidden 4" in run("inspect", tmp_path).out


def test_layers_unfold(run: Run, llama: Path) -> None:
    text = run("inspect", llama, "--layers").out
    assert "model.layers.0 " in text
    assert "model.layers.1 " in text
    assert "0 to 1" not in text


def test_tensors_are_listed_by_glob(run: Run, llama: Path) -> None:
    lines = run("inspect", llama, "--tensors", "*.layers.1.self_attn.*").out.splitlines()
    assert len(lines) == 1 + 4 + 1
    assert lines[1].split()[:5] == ["model.layers.1.self_attn.q_proj.weight", "BF16", "[8,", "8]", "128"]


def test_tensors_are_listed_by_expression(run: Run, llama: Path) -> None:
    table = run("inspect", llama, "--regex", r"norm\.weight$", "--json").json["tensor_table"]
    assert isinstance(table, list)
    assert [entry["name"] for entry in table if "layers" not in entry["name"]] == ["model.norm.weight"]


def test_expression_that_would_never_end_is_refused(run: Run, single: Path) -> None:
    write_safetensors(single / "model.safetensors", {"a" * 64 + "!": ("F32", (1,))})
    outcome = run("inspect", single, "--regex", r"^(a|aa)+$")
    assert outcome.code == 2
    assert "takes too long" in outcome.err


def test_diff_names_what_differs(run: Run, llama: Path, single: Path) -> None:
    answer = run("inspect", llama, "--diff", single, "--json").json
    assert answer["only_before"] == ["lm_head.weight"]
    assert answer["config"] == [{"name": "tie_word_embeddings", "before": False, "after": True}]
    assert "only after (1)" in run("inspect", llama, "--diff", single).out


def test_json_has_no_infinities(run: Run, llama: Path, single: Path) -> None:
    (single / "config.json").write_text('{"model_type": "mamba2", "time_step_limit": [0.0, Infinity]}')
    outcome = run("inspect", llama, "--diff", single, "--json")
    answer = json.loads(outcome.out, parse_constant=pytest.fail)
    assert [change["after"] for change in answer["config"] if change["name"] == "time_step_limit"] == [[0.0, "inf"]]


def test_strict_diff_ends_with_7(run: Run, llama: Path, single: Path) -> None:
    assert run("inspect", llama, "--diff", single, "--strict").code == 7
    assert run("inspect", llama, "--diff", llama, "--strict").code == 0


def test_strict_ends_with_7_after_the_report(run: Run, llama: Path) -> None:
    (llama / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"num_hidden_layers": 3}))
    outcome = run("inspect", llama, "--strict", "--json")
    assert outcome.code == 7
    assert [problem["code"] for problem in outcome.json["problems"]] == ["layer-count"]  # type: ignore[index, union-attr]


def test_untrusted_names_can_not_reach_the_terminal(run: Run, single: Path) -> None:
    text = run("inspect", single, "--tensors").out
    assert r"[/red]\x1b[31m" in text
    assert "\x1b" not in text


def test_notes_are_no_problems(run: Run, llama: Path) -> None:
    (llama / "pytorch_model.bin").touch()
    outcome = run("inspect", llama, "--strict")
    assert outcome.code == 0
    assert "no problems found\nnote: 2 sets of weights side by side" in outcome.out


def test_a_file_is_inspected_alone(run: Run, llama: Path) -> None:
    answer = run("inspect", llama / "model-00001-of-00002.safetensors", "--json").json
    assert (answer["source"], answer["tensors"]) == ("file", 11)


def test_an_option_chooses_among_files(run: Run, llama: Path) -> None:
    write_safetensors(llama / "other.safetensors", {"w": ("F32", (2, 2))})
    assert run("inspect", llama, "--file", "other.safetensors", "--json").json["parameters"] == 4


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: mit", "mit"),
        ("license: [mit, 'apache-2.0']", "mit, apache-2.0"),
        ("license:\n- mit\n- apache-2.0\nlanguage: en", "mit, apache-2.0"),
        ("license:\nlanguage:\n- en", None),
    ],
)
def test_licences_of_a_model_card(run: Run, llama: Path, front: str, licence: str | None) -> None:
    (llama / "README.md").write_text(f"---\n{front}\n---\n")
    assert run("inspect", llama, "--json").json["license"] == licence


def test_help_tells_of_revisions(run: Run) -> None:
    assert "org/name@revision" in " ".join(run("inspect", "--help").out.split())


def test_debug_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    assert "Traceback" in run("inspect", tmp_path / "nothing", "--debug").err


@pytest.mark.parametrize(("arguments", "hint"), [(["--layer"], "--layers"), (["--strickt"], "--strict")])
def test_wrong_usage_ends_with_2_and_a_suggestion(run: Run, llama: Path, arguments: list[str], hint: str) -> None:
    outcome = run("inspect", llama, *arguments)
    assert outcome.code == 2
    assert hint in outcome.err


def test_reader_that_goes_away_early_is_no_error(llama: Path) -> None:
    command = f"{sys.executable} -m mlload inspect {llama} --layers | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_at_once_with_their_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    from hub_faults import stall
    from hub_server import hub

    with hub() as server:
        server.faults += [stall(30, times=None)]
        env = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path)}
        process = subprocess.Popen([sys.executable, "-m", "mlload", "inspect", "org/model"], env=env, stderr=subprocess.PIPE)
        while not server.log:
            os.sched_yield()
        begun = time.monotonic()
        process.send_signal(number)
        said = process.communicate(timeout=10)[1]
        assert (process.returncode, said) == (code, b"")
        assert time.monotonic() - begun < 5


def test_a_signal_while_a_class_is_made_ends_it_with_its_code() -> None:
    program = """
import os, signal
from mlload.cli.output import run_guarded

class Part:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.SIGINT)

run_guarded(lambda: type("Whole", (), {"part": Part()}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
