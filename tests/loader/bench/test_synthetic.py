"""Checkpoints of random weights with real shapes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import mlload
from mlload import DoesNotFitError, InvalidCheckpointError, ModelLoadingConfig, UsageError
from mlload.configs import table
from mlload.loader.bench.random_weights import blueprint, write_checkpoint
from mlload.loader.bench.synthetic import remove_synthetic, synthetic
from mlload.loader.execution.checks import non_finite
from mlload.loader.loading import load

TINY = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 16}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLOAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "synthetic"


def config_file(folder: Path, **changes: object) -> str:
    (folder / "config.json").write_text(json.dumps(TINY | changes))
    return str(folder / "config.json")


@pytest.mark.parametrize("shape", ["llama-tiny", "qwen3-moe-tiny"])
def test_what_is_written_loads_everywhere_and_computes(shape: str) -> None:
    folder = synthetic(shape)
    report = mlload.inspect(folder)
    assert (report.problems, report.tokenizer is None) == ((), False)
    model = load(ModelLoadingConfig(folder, device="cpu")).model
    assert non_finite(model) == {}
    ids = torch.tensor([[1, 2, 3]])
    logits = model(ids).logits
    assert torch.equal(logits, transformers.AutoModelForCausalLM.from_pretrained(folder)(ids).logits)
    assert logits.isfinite().all()
    assert logits.std() > 0


def test_experts_are_stored_one_by_one_as_on_the_hub() -> None:
    tensors = mlload.Checkpoint.open(synthetic("qwen3-moe-tiny")).tensors
    assert tensors["model.layers.0.mlp.experts.7.down_proj.weight"].shape == (64, 64)


def test_it_is_made_once_and_the_same_each_time(cache: Path) -> None:
    folder = synthetic("llama-tiny")
    weights = folder / "model.safetensors"
    before = weights.read_bytes(), weights.stat().st_mtime_ns
    assert synthetic("llama-tiny") == folder
    assert weights.stat().st_mtime_ns == before[1]
    assert remove_synthetic("llama-tiny") > len(before[0])
    assert list(cache.iterdir()) == []
    assert (synthetic("llama-tiny") / "model.safetensors").read_bytes() == before[0]


def test_who_is_slower_takes_what_another_made(cache: Path) -> None:
    made: list[Path] = []
    assert synthetic("llama-tiny", lambda *_: made.append(synthetic("llama-tiny"))) == made[0]
    assert list(cache.iterdir()) == made[:1]


def test_progress_counts_every_byte() -> None:
    heard: list[tuple[int, int]] = []
    synthetic("llama-tiny", lambda size, total: heard.append((size, total)))
    assert sum(size for size, _ in heard) == heard[0][1] == 1_837_312


def test_a_config_of_ones_own_is_a_shape(tmp_path: Path) -> None:
    folder = synthetic(config_file(tmp_path, tie_word_embeddings=True, dtype="float16"))
    report = mlload.inspect(folder)
    assert set(report.by_dtype) == {"F16"}
    assert report.head is None
    assert folder != synthetic(config_file(tmp_path, num_hidden_layers=2))


def test_large_ones_are_cut_into_shards(tmp_path: Path) -> None:
    write_checkpoint(replace(blueprint(TINY), shard_bytes=800), tmp_path)
    report = mlload.inspect(tmp_path)
    assert len([file for file in report.files if file.name.endswith(".safetensors")]) > 2
    assert report.problems == ()


def test_what_the_disk_cannot_hold_is_not_begun(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DoesNotFitError, match=r"config-\w+ takes 2 TiB, but .* has .* left; MLLOAD_CACHE moves it to another disk"):
        synthetic(config_file(tmp_path, vocab_size=1 << 36))
    assert list(cache.iterdir()) == []


def test_what_a_dead_writer_left_is_swept(tmp_path: Path, cache: Path) -> None:
    old, young = cache / ".llama-tiny-0.tmp", cache / ".llama-tiny-1.tmp"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
    os.utime(old, (0, 0))
    synthetic("llama-tiny")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, UsageError, "is of a quantized model; take its quantization_config out"),
        ({"model_type": "lama"}, UsageError, "knows no model type 'lama'; did you mean 'llama'?"),
        ({"num_attention_heads": 3}, InvalidCheckpointError, "config.json"),
    ],
)
def test_configs_that_make_no_model_are_refused(tmp_path: Path, changes: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as refused:
        synthetic(config_file(tmp_path, **changes))
    assert words in str(refused.value)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown shape 'llama-3-9b'; did you mean 'llama-3-8b'\?"):
        synthetic("llama-3-9b")


@pytest.mark.parametrize("shape", table("shapes"))
def test_every_shape_is_as_large_as_its_summary_says(shape: str) -> None:
    line = table("shapes")[shape]
    nbytes = blueprint(line["config"]).nbytes
    said = {"1.1 GB": 1.1e9, "2.2 GB": 2.2e9, "13.5 GB": 13.5e9, "16 GB": 16e9}
    known = [size for words, size in said.items() if words in line["summary"]]
    assert nbytes == pytest.approx(known[0], rel=0.03) if known else nbytes < 3e6
