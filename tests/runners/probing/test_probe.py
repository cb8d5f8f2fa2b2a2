"""A corpus recorded in sorted batches and shards equals one text at a time, and is read again without a copy."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file

import mlload
from mlload import BaseModelRunner, load_model, open_probe, probe_layers

TOLERANCE = 1e-5  # of float32, between a text alone and the same in a batch: kernels round differently for other shapes
Models = Callable[[str], Path]


def corpus(count: int, seed: int = 0) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(tiny_models.WORDS[:-2], k=chosen.randint(1, 30))) for _ in range(count)]


TEXTS = corpus(50)


def alone(runner: BaseModelRunner, text: str, name: str) -> torch.Tensor:
    """What `name` is of a text that is run by itself."""
    outputs = runner.forward(runner.tokenize(text), logits=False)
    *stack, kind, layer = name.split(".")
    if kind == "layer":
        return (outputs.decoder_hidden_states if stack == ["decoder"] else outputs.hidden_states)[int(layer)][0]
    return outputs.extra["decoder_attentions" if stack == ["decoder"] and kind == "attentions" else kind][int(layer) - 1][0]


def pooled(states: torch.Tensor, how: str) -> torch.Tensor:
    return {"none": states, "mean": states.mean(0), "cls": states[0], "last": states[-1], "max": states.amax(0)}[how]


@pytest.mark.parametrize("name", ["mbert", "xlmr", "labse", "mt5", "llama", "gpt2"])
def test_a_corpus_equals_one_text_at_a_time(tiny_model: Models, tmp_path: Path, name: str) -> None:
    runner = load_model(tiny_model(name), device="cpu")
    probe_layers(runner, TEXTS, output=tmp_path / "out", pool="none", texts_per_shard=16, batch_tokens=64)
    probe = open_probe(tmp_path / "out")
    assert len(probe) == 50
    assert len(probe.index["shards"]) == 4
    for number in range(0, 50, 7):
        for kept in probe.names:
            wanted = alone(runner, TEXTS[number], kept)
            assert probe[kept][number].shape == wanted.shape
            assert torch.allclose(probe[kept][number], wanted, atol=TOLERANCE)


@pytest.mark.parametrize("how", ["mean", "cls", "last", "max"])
def test_pooled_rows(tiny_model: Models, tmp_path: Path, how: str) -> None:
    runner = load_model(tiny_model("mbert"), device="cpu")
    probe_layers(runner, TEXTS, output=tmp_path / "out", pool=how, layers="0,-1", texts_per_shard=20)
    probe = open_probe(tmp_path / "out")
    assert probe.names == ["layer.0", "layer.3"]
    assert probe[3].tensor().shape == (50, 32)
    for number, row in enumerate(probe[3]):
        assert torch.allclose(row, pooled(alone(runner, TEXTS[number], "layer.3"), how), atol=TOLERANCE)


def test_attention_maps_of_both_stacks(tiny_model: Models, tmp_path: Path) -> None:
    runner = load_model(tiny_model("mt5"), device="cpu")
    asked: dict[str, Any] = {"layers": [1, 3], "attentions": True, "cross_attentions": True}
    report = probe_layers(runner, TEXTS[:9], output=tmp_path / "out", texts_per_shard=4, **asked)
    names = ("encoder.attentions", "decoder.attentions", "decoder.cross_attentions")
    assert report.maps == tuple(f"{name}.{layer}" for name in names for layer in (1, 3))
    probe = open_probe(tmp_path / "out")
    for name in report.maps:
        for number in (0, 5, 8):
            assert torch.allclose(probe[name][number], alone(runner, TEXTS[number], name), atol=TOLERANCE)


def test_one_stack_of_a_seq2seq_model(tiny_model: Models) -> None:
    report = probe_layers(tiny_model("mt5"), TEXTS[:3], stack="decoder", layers="0:2")
    assert [(line.stack, line.layer) for line in report.layers] == [("decoder", 0), ("decoder", 1)]
    with pytest.raises(mlload.UsageError, match="unknown stack 'middle'"):
        probe_layers(tiny_model("mt5"), TEXTS[:3], stack="middle")
    with pytest.raises(mlload.UsageError, match="BertForMaskedLM gives no hidden states of a stack called decoder"):
        probe_layers(tiny_model("mbert"), TEXTS[:3], stack="decoder")


def test_tokens_that_were_chosen(tiny_model: Models, tmp_path: Path) -> None:
    runner = load_model(tiny_model("mbert"), device="cpu")
    texts = ["the bank is unlikely", "a bank a bank", "the river"]
    probe_layers(runner, texts, output=tmp_path / "words", tokens="words", pool="mean")
    words = open_probe(tmp_path / "words")
    states = alone(runner, texts[0], "layer.2")
    wanted = torch.stack([states[1], states[2], states[3], states[4:6].mean(0)])  # un ##likely is one word
    assert torch.allclose(words[2][0], wanted, atol=TOLERANCE)
    assert words.spans[:4].tolist() == [[0, 3], [4, 8], [9, 11], [12, 20]]
    probe_layers(runner, texts, output=tmp_path / "bank", tokens="word:bank", pool="none")
    bank = open_probe(tmp_path / "bank")
    assert [len(rows) for rows in bank[1]] == [1, 2, 0]
    assert torch.allclose(bank[2][1], alone(runner, texts[1], "layer.2")[[2, 4]], atol=TOLERANCE)


def test_shards_are_safetensors_files_with_everything_that_is_known(tiny_model: Models, tmp_path: Path) -> None:
    report = probe_layers(tiny_model("gpt2"), [*TEXTS[:5], "", *TEXTS[5:9]], output=tmp_path / "out", pool="none", device="cpu")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.json", "shard-00000.safetensors"]
    tensors = load_file(tmp_path / "out" / "shard-00000.safetensors")
    assert tensors["offsets"].tolist()[-1] == report.rows == len(tensors["layer.0"]) == len(tensors["input_ids"])
    assert tensors["lengths"][5] == 0
    wanted = {
        "model",
        "revision",
        "class",
        "weights",
        "shards",
        "tokenizer",
        "dtype",
        "kept",
        "pooling",
        "max_length",
        "versions",
        "layers",
        "texts",
    }
    assert wanted <= set(index)
    assert index["versions"]["torch"] == torch.__version__
    assert index["model"] == str(tiny_model("gpt2"))
    assert len(index["shards"]) == 1


def mapped_from(folder: Path) -> list[range]:
    """The addresses of this process at which files of a folder are mapped."""
    lines = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    places = [words[0].split("-") for words in lines if len(words) == 6 and Path(words[5]).is_relative_to(folder.resolve())]
    return [range(int(start, 16), int(end, 16)) for start, end in places]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_reading_maps_the_file(tiny_model: Models, tmp_path: Path) -> None:
    probe_layers(tiny_model("mbert"), TEXTS, output=tmp_path / "out", pool="mean")
    probe = open_probe(tmp_path / "out")
    whole = probe[1].tensor()
    assert whole.data_ptr() == probe[1][0].data_ptr()
    assert len(ranges := mapped_from(tmp_path / "out")) == 1  # one mapping of the file
    assert all(tensor.data_ptr() in ranges[0] for tensor in (whole, probe[2].tensor()))
    with pytest.raises(mlload.UsageError, match=r"holds no 'layer\.9'"):
        probe[9]
    with pytest.raises(IndexError):
        probe[1][50]


def test_empty_texts_have_a_row_that_is_no_number(tiny_model: Models, tmp_path: Path) -> None:
    report = probe_layers(tiny_model("gpt2"), ["the bank", "", "a"], output=tmp_path / "out", pool="mean")
    assert report.empty_texts == 1
    assert open_probe(tmp_path / "out")[1].tensor().isnan().all(dim=1).tolist() == [False, True, False]
    assert report.layers[1].rows == 2


def test_what_is_cut_is_told(tiny_model: Models) -> None:
    report = probe_layers(tiny_model("mbert"), ["the bank of the river", "a"], max_length=4)
    assert (report.truncated_texts, report.dropped_tokens, report.max_length, report.read_tokens) == (1, 3, 4, 7)


def test_the_table_is_true(tiny_model: Models) -> None:
    runner = load_model(tiny_model("llama"), device="cpu")
    report = probe_layers(runner, TEXTS[:8], pool="none", batch_tokens=40)
    layers = [torch.cat([alone(runner, text, f"layer.{layer}") for text in TEXTS[:8]]).double() for layer in range(4)]
    for line, states in zip(report.layers, layers, strict=True):
        assert (line.rows, line.width) == states.shape
        assert line.norm == pytest.approx(float(states.norm(dim=1).mean()), rel=1e-5)
        assert line.mean == pytest.approx(float(states.mean()), abs=1e-6)
        assert line.spread == pytest.approx(float(states.std(correction=0)), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(layers[2], layers[1], dim=1).mean()
    assert report.layers[2].similarity == pytest.approx(float(cosine), abs=1e-5)


def test_a_streamed_model_gives_the_same_files(tiny_model: Models, tmp_path: Path) -> None:
    for name, resident in (("whole", None), ("streamed", 40_000)):
        runner = load_model(tiny_model("llama"), device="cpu", attentions=False, head=False, resident=resident)
        assert (runner.loaded.streamer is None) == (resident is None)
        probe_layers(runner, TEXTS, output=tmp_path / name, texts_per_shard=32)
    assert contents(tmp_path / "whole") == contents(tmp_path / "streamed")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_job_is_only_told_again(tiny_model: Models, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"output": tmp_path / "out", "texts_per_shard": 16}
    first = probe_layers(tiny_model("mbert"), TEXTS, **settings)
    before = contents(tmp_path / "out")
    again = probe_layers(tiny_model("mbert"), TEXTS, **settings)
    assert (first.layers, again.resumed_texts) == (again.layers, 50)
    assert contents(tmp_path / "out") == before


REFUSED = {
    "other-settings": ({"pool": "max"}, TEXTS, "holds another probe: its pooling differ; name another folder"),
    "other-texts": ({}, corpus(50, seed=1), "holds states of other texts"),
    "more-texts": ({}, [*TEXTS, "a"], "holds states of other texts"),
    "fewer-texts": ({}, TEXTS[:16], "holds states of more texts than these"),
    "format": ({"format": "csv"}, TEXTS, "unknown format 'csv'"),
    "setting": ({"layer": 3}, TEXTS, "unknown setting 'layer'; did you mean 'layers'"),
    "pooling": ({"pool": "average"}, TEXTS, "unknown pooling 'average'"),
    "number": ({"batch_tokens": 0}, TEXTS, "batch tokens is 0; it is 1 or more"),
    "maps": ({"cross_attentions": True}, TEXTS, "there are no cross-attentions to keep; the decoder"),
}


@pytest.mark.parametrize(("changes", "texts", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(tiny_model: Models, tmp_path: Path, changes: dict[str, Any], texts: list[str], words: str) -> None:
    settings: dict[str, Any] = {"output": tmp_path / "out", "texts_per_shard": 16, "pool": "mean"}
    probe_layers(tiny_model("mbert"), TEXTS, **settings)
    with pytest.raises(mlload.UsageError, match=words):
        probe_layers(tiny_model("mbert"), texts, **(settings | changes))


def test_folders_of_something_else_are_left_alone(tiny_model: Models, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(mlload.UsageError, match="holds something else; name a folder that is empty"):
        probe_layers(tiny_model("mbert"), TEXTS, output=tmp_path)
    with pytest.raises(mlload.UsageError, match="holds no probe that is whole"):
        open_probe(tmp_path)


def test_a_shard_that_was_damaged_is_no_answer(tiny_model: Models, tmp_path: Path) -> None:
    probe_layers(tiny_model("mbert"), TEXTS, output=tmp_path / "out")
    shard = tmp_path / "out" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(mlload.InvalidCheckpointError, match="shard-00000"):
        open_probe(tmp_path / "out")[0][0]
