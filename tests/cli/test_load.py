"""`mlload load` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
import transformers
from conftest import Outcome
from hub_server import hub
from safetensors.torch import load_file, save_file

from mlload.configs import FOLDER

Run = Callable[..., Outcome]
TINY = FOLDER / "tiny"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the embedded model in one file, for a test to spoil."""
    folder = tmp_path / "copy"
    transformers.AutoModelForCausalLM.from_pretrained(TINY).save_pretrained(folder)
    return folder


def test_prompt_is_gone_on_from(run: Run) -> None:
    outcome = run("load", "tiny", "--prompt", "Q: What is a shard?", "--max-new-tokens", "30")
    assert outcome.out.startswith("Q: What is a shard?\nA: A shard is one of")
    assert "LlamaForCausalLM  decoder-only, 625 K parameters in bfloat16 on cpu, full" in outcome.out
    assert outcome.err == ""


def test_dry_run_shows_the_plan_and_reads_no_weights(run: Run, llama: Path) -> None:
    (llama / "model-00002-of-00002.safetensors").chmod(0o400)
    out = run("load", llama, "--dry-run", "--dtype", "float32").out
    assert "model.layers.0 .. 1  (2 alike)" in out
    assert "to float32" in out
    assert run("load", llama, "--dry-run", "--json").json["schema"] == "mlload.plan/1"


def test_check_names_tensors_that_are_not_finite(run: Run, tiny: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(tiny / "model.safetensors").items()}
    tensors["model.layers.2.mlp.up_proj.weight"][0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    save_file(tensors, tiny / "model.safetensors", metadata={"format": "pt"})
    assert run("load", tiny, "--check", "--json").json["non_finite"] == {"model.layers.2.mlp.up_proj.weight": 3}


def test_what_is_saved_is_the_model_in_its_new_dtype(run: Run, tmp_path: Path) -> None:
    assert run("load", "tiny", "--dtype", "float32", "--save", tmp_path / "out").code == 0
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    wanted = transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    assert saved.dtype is torch.float32
    assert all(torch.equal(saved.get_parameter(name), tensor) for name, tensor in wanted.named_parameters())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()["<|pad|>"] == 258


def test_nothing_is_saved_over(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome = run("load", "tiny", "--save", tmp_path / "out")
    assert (outcome.code, outcome.err) == (2, f"error: {tmp_path}/out exists already; name a folder that does not\n")


def test_several_models_share_the_memory_and_each_answers(run: Run) -> None:
    options = ("--prompt", "Q: What is a shard?", "--max-new-tokens", "30", "--memory", "1600kB")
    outcome = run("load", "tiny", TINY, *options)
    assert outcome.out.count("A: A shard is one of") == 2
    assert outcome.out.startswith("tiny:\nQ: What is a shard?\n")
    assert "on cpu, streaming, at most 342 KiB of weights in memory" in outcome.out
    answer = run("load", "tiny", TINY, *options, "--json").json
    assert (answer["schema"], answer["memory"]) == ("mlload.loads/1", 1_600_000)
    models = cast("list[dict[str, object]]", answer["models"])
    assert [(model["schema"], model["strategy"]) for model in models] == [("mlload.load/1", "streaming"), ("mlload.load/1", "full")]
    assert models[0]["text"] == models[1]["text"]


def test_options_win_over_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "load.yaml").write_text("model_name: tiny\ndtype: float16\nresident: 300kB\n")
    answer = run("load", "--config", tmp_path / "load.yaml", "--dry-run", "--json").json
    assert (answer["reference"], answer["dtype"], answer["strategy"], answer["resident"]) == ("tiny", "float16", "streaming", 300_000)
    answer = run("load", "--config", tmp_path / "load.yaml", "--dtype", "auto", "--strategy", "full", "--dry-run", "--json").json
    assert (answer["dtype"], answer["strategy"]) == ("bfloat16", "full")
    assert run("load", "--config", "nowhere.yaml", "tiny").code == 3


def test_a_verbose_load_tells_each_unit_on_stderr(run: Run) -> None:
    options = ("--quantize", "nf4", "--skip-modules", "model.layers.0,v_proj", "--compute-dtype", "bfloat16", "--no-use-cache")
    outcome = run("load", "tiny", *options, "--verbose", "--json")
    lines = [line for line in outcome.err.splitlines() if line.startswith("mlload: ")]
    assert lines[:2] == [
        f"mlload: LlamaForCausalLM in bfloat16, 1.19 MiB in 8 units: full on cpu, {len(os.sched_getaffinity(0))} at once",
        "mlload: 0 of 5 quantized units are in the cache",
    ]
    assert [line.split()[1] for line in lines[2:]] == ["model.embed_tokens:", *(f"model.layers.{n}:" for n in range(6)), "model.norm:"]
    assert "model.layers.0: 192 KiB read, 192 KiB kept" in lines[3]
    assert "model.layers.1: 192 KiB read, 66.4 KiB kept" in lines[4]
    assert outcome.json["cache"] == "miss"


def test_other_ranks_get_no_weights(run: Run) -> None:
    torchrun = {"RANK": "1", "WORLD_SIZE": "2"}
    answer = run("load", "tiny", "--strategy", "low-memory", "--json", env=torchrun).json
    assert (answer["device"], answer["predicted"]) == ("meta", {"anonymous": 0, "mapped": 0, "device": 0})
    outcome = run("load", "tiny", "--strategy", "low-memory", "--check", env=torchrun)
    assert (outcome.code, outcome.err) == (2, "error: rank 1 gets no weights to look at; leave --prompt, --check and --save to rank 0\n")


def test_llama_pro(run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "tiny_blk_exp-6-8")
    units = cast("list[dict[str, object]]", run("load", "tiny", "--llama-pro", folder, "--dry-run", "--json").json["units"])
    assert units[-2]["name"] == "model.layers.7"


def test_several_models_are_planned_together(run: Run) -> None:
    answer = run("load", "tiny", "tiny", "--dry-run", "--json").json
    assert (answer["schema"], answer["memory"]) == ("mlload.plans/1", None)
    assert [model["strategy"] for model in cast("list[dict[str, object]]", answer["models"])] == ["full", "full"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (
            ["--memory", "190KiB"],
            5,
            "tiny takes at least 192 KiB, streamed: 2.5 KiB more than the 190 KiB that may be taken; allow ",
        ),
        (["--memory", "2MB", "--dtype", "float32", "--strategy", "full"], 5, "tiny takes at least 2.38 MiB: 487 KiB more"),
        (["--memory", "much"], 2, "'much' is no size"),
        (["tiny", "--save", "out"], 2, "--save writes one model"),
        (["--strategy", "fast"], 2, "unknown strategy 'fast'"),
        (["--dtype", "int3"], 2, "unknown dtype 'int3'"),
        (["--device", "cuda:7"], 5, "there is no device 'cuda:7'"),
        (["--device", "gpu"], 2, "unknown device 'gpu'"),
        (["--prompt", ""], 2, "the prompt holds no token"),
    ],
)
def test_wrong_options_get_one_line(run: Run, options: list[str], code: int, words: str) -> None:
    outcome = run("load", "tiny", *options)
    assert (outcome.code, outcome.err.count("\n")) == (code, 1)
    assert words in outcome.err


def test_no_tokenizer_is_missed_until_it_is_needed(run: Run, tiny: Path) -> None:
    assert run("load", tiny).code == 0
    outcome = run("load", tiny, "--prompt", "A")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert "tokenizer" in outcome.err


def test_a_weights_file_is_loaded_by_its_name(run: Run, tiny: Path) -> None:
    assert run("load", tiny / "model.safetensors", "--json").json["parameters"] == 624_640


def test_a_hub_model_is_downloaded_once_and_then_found_offline(run: Run) -> None:
    with hub() as server:
        server.add("org/tiny", TINY)
        env = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        assert run("load", "org/tiny", "--json", env=env).json["parameters"] == 624_640
    assert run("load", "org/tiny", "--json").json["parameters"] == 624_640


def test_an_encoder_does_not_go_on(run: Run, zoo: Path) -> None:
    outcome = run("load", zoo / "masked-bert", "--prompt", "A")
    assert outcome.code == 2
    assert "no model that goes on from a prompt" in outcome.err
    assert json.loads(run("load", zoo / "masked-bert", "--json").out)["class_name"] == "BertForMaskedLM"
