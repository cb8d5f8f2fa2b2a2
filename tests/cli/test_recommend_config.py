"""`mlload recommend-config` as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import shapes
from conftest import LLAMA_CONFIG, Outcome
from hub_server import hub

HEAVY = ("torch", "transformers", "accelerate", "numpy", "bitsandbytes", "hqq", "huggingface_hub")


def test_what_to_do_and_what_else_there_is(run: Callable[..., Outcome]) -> None:
    outcome = run("recommend-config", "tiny")
    assert outcome.code == 0
    assert outcome.out.startswith("tiny  bfloat16 on cpu, full\n")
    assert "kv cache" in outcome.out
    assert "for        1 x 512 tokens" in outcome.out


def test_every_number_is_explained(run: Callable[..., Outcome]) -> None:
    explained = run("recommend-config", "tiny", "--context", "100", "--explain").out
    assert "1 x 100 tokens x 1,536 B" in explained
    assert "config.json and projections' rows" in explained


def test_the_file_loads_unchanged(run: Callable[..., Outcome], tmp_path: Path) -> None:
    assert run("recommend-config", "tiny", "--write", "load.yaml").code == 0
    loaded = run("load", "--config", tmp_path / "load.yaml", "--json")
    assert loaded.code == 0, loaded.err
    assert loaded.json["strategy"] == "full"


@pytest.mark.parametrize("objective", ["memory", "speed"])
def test_what_is_written_is_what_is_recommended(run: Callable[..., Outcome], tmp_path: Path, objective: str) -> None:
    told = run("recommend-config", "tiny", "--objective", objective, "--json", "--write", "load.yaml").json["recommended"]
    plan = run("load", "--config", tmp_path / "load.yaml", "--dry-run", "--json").json
    assert isinstance(told, dict)
    assert (plan["strategy"], plan["dtype"], plan["resident"]) == (told["strategy"], told["dtype"], told["resident"])


def test_predicted_beside_measured(run: Callable[..., Outcome]) -> None:
    verified = run("recommend-config", "tiny", "--verify", "--json").json["verified"]
    assert isinstance(verified, dict)
    assert abs(verified["error"]) < 0.05
    assert verified["measured"]["anonymous"] > 100 << 20


def test_a_picture(run: Callable[..., Outcome], tmp_path: Path) -> None:
    assert run("recommend-config", "tiny", "--plot", "memory.png").code == 0
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_a_machine_that_is_described(run: Callable[..., Outcome]) -> None:
    answer = run("recommend-config", "tiny", "--gpus", "2x24GiB", "--host-memory", "8GiB", "--json").json
    machine, best = answer["machine"], answer["recommended"]
    assert isinstance(machine, dict)
    assert isinstance(best, dict)
    assert [device["free_bytes"] for device in machine["devices"]] == [24 << 30] * 2
    assert best["devices"] == ["cuda:0"]


def test_that_nothing_fits_is_said_in_the_answer_and_by_the_exit_code(run: Callable[..., Outcome]) -> None:
    outcome = run("recommend-config", "tiny", "--device", "cpu", "--memory", "100MiB", "--json")
    assert outcome.code == 5
    assert outcome.json["recommended"] is None
    assert outcome.json["nearest"] is not None
    assert "does not fit in any way; nearest is" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--objective", "fast"], 2, "unknown objective 'fast'"),
        (["--context", "0"], 2, "context is 1 to"),
        (["--attention", "flash"], 2, "what attention 'flash' takes is not known"),
        (["--write", "load.json"], 2, "load.json is no .yaml"),
        (["--plot", "memory.gif"], 2, "'memory.gif' is no picture"),
        (["--gpus", "many"], 2, "'many' is no size"),
        (["--device", "cuda"], 5, "there is no cuda device here"),
        (["--device", "tpu"], 2, "unknown backend 'tpu'"),
        (["--device", "mlx"], 2, "what a model takes with MLX is not known"),
        (["--gpus", "24GiB", "--device", "cuda", "--host-memory", "8GiB", "--verify"], 2, "cuda:0 is described"),
    ],
)
def test_errors_are_one_line(run: Callable[..., Outcome], arguments: list[str], code: int, words: str) -> None:
    outcome = run("recommend-config", "tiny", *arguments)
    assert outcome.code == code
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_nothing_heavy_is_imported(llama: Path) -> None:
    lines = (
        f"import sys; sys.argv = ['mlload', 'recommend-config', {str(llama)!r}, '--explain']",
        "from mlload.cli import main",
        "try: main()",
        "except SystemExit: sys.stderr.write(' '.join(sys.modules))",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, text=True)
    assert {name.partition(".")[0] for name in done.stderr.split()}.isdisjoint(HEAVY)


def test_json_is_one_object(run: Callable[..., Outcome]) -> None:
    assert json.loads(run("recommend-config", "tiny", "--json").out)["schema"] == "mlload.recommend/1"


def test_of_a_model_on_a_hub_only_headers_are_read(run: Callable[..., Outcome], tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = LLAMA_CONFIG | sizes | {"vocab_size": 8000}
    shapes.write(tmp_path / "model", config, dict(shapes._tensors(config)), shards=2)
    with hub() as server:
        server.add("org/llama", tmp_path / "model")
        env = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0"}
        outcome = run("recommend-config", "org/llama", "--gpus", "24GiB", "--json", env=env)
    assert outcome.json["recommended"]["precision"] == "bfloat16"  # pyright: ignore[reportIndexIssue]
    assert sum(record.bytes for record in server.log) < 1_000_000  # of 38 million
