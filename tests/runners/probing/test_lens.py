"""The logit lens of a probe is what the model's own norm and head make of each layer's hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome

import mlload
from mlload import load_model, probe_layers

Models = Callable[[str], Path]
TEXT = "Q: What is a shard?"


def test_it_is_the_models_own_norm_and_head() -> None:
    report = probe_layers("tiny", TEXT, logit_lens=True, device="cpu")
    assert report.lens is not None
    assert [line.layer for line in report.lens.lines] == list(range(7))
    runner = load_model("tiny", device="cpu")
    outputs = runner.forward(runner.tokenize(TEXT))
    likeliest = [line.tokens[0].token for line in report.lens.lines]
    with torch.no_grad():
        for layer, hidden in enumerate(outputs.hidden_states[:-1]):  # the norm has gone over the last one
            said = runner.model.get_output_embeddings()(runner.model.model.norm(hidden[0, -1]))
            assert likeliest[layer] == int(said.argmax())
    assert outputs.logits is not None
    assert likeliest[-1] == int(outputs.logits[0, -1].argmax())


def test_it_looks_at_the_masks_of_an_encoder(tiny_model: Models) -> None:
    report = probe_layers(tiny_model("mbert"), "the [MASK] of the river", logit_lens=True, device="cpu")
    assert report.lens is not None
    assert {line.position for line in report.lens.lines} == {2}


def test_texts_of_a_file_are_too_many(run: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("A shard\n")
    outcome = run("probe-layers", "tiny", "--file", tmp_path / "texts.txt", "--logit-lens")
    assert outcome.code == mlload.UsageError.exit_code
    assert "give them by --text" in outcome.err


def test_without_a_head_there_is_nothing_to_see(tiny_model: Models) -> None:
    with pytest.raises(mlload.UsageError, match="has no head over a vocabulary"):
        probe_layers(tiny_model("minilm"), TEXT, logit_lens=True, device="cpu")
