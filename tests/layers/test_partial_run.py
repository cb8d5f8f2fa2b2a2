"""What `mlload partial-forward` does beside running layers: hidden states, pictures, tokens, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from mlload.configs import FOLDER
from mlload.layers.partial import partial_forward
from mlload.layers.partial_report import PartialReport
from mlload.layers.partial_request import PartialRequest
from mlload.layers.partial_run import run_partial
from mlload.layers.state import ForwardState
from mlload.loader.errors import UsageError
from mlload.loader.settings import ModelLoadingConfig

TINY = FOLDER / "tiny"
PROMPT = ("Q: What is a shard?",)


def ran(model: Path, resident: int | None = None, **request: object) -> PartialReport:
    return run_partial(ModelLoadingConfig(model, device="cpu", resident=resident), PartialRequest(**request))  # pyright: ignore[reportArgumentType]


def test_the_embedding_alone(tmp_path: Path) -> None:
    report = ran(TINY, ids=(1, 2, 3), embedding_only=True, output=tmp_path / "e.safetensors")
    assert (report.first, report.last, report.output) == (0, 0, str(tmp_path / "e.safetensors"))
    assert report.streamed is not None
    assert report.streamed.units_read == 1
    table = load_file(TINY / "model-00001-of-00003.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(load_file(tmp_path / "e.safetensors")["entry.hidden_states"][0], table[1:4])


def test_keys_and_values_go_along_with_the_state(tmp_path: Path) -> None:
    ran(TINY, texts=PROMPT, layers="0:2", cache=True, output=tmp_path / "two.safetensors")
    state = ForwardState.load(tmp_path / "two.safetensors")
    cache = partial_forward(TINY, state=state, layers="2:").past_key_values
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY)
    with torch.no_grad():
        expected = model(state.inputs["input_ids"], use_cache=True).past_key_values
    assert cache is not None
    assert len(cache.layers) == len(expected.layers) == 6
    for mine, theirs in zip(cache.layers, expected.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)


def test_hidden_states_are_those_that_transformers_records(tmp_path: Path) -> None:
    ran(TINY, texts=PROMPT, save_hidden=tmp_path / "hidden.safetensors")
    mine = load_file(tmp_path / "hidden.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY)
    with torch.no_grad():
        recorded = model(mine["input_ids"], output_hidden_states=True).hidden_states
        assert all(torch.equal(mine[f"hidden_states.{layer}"], recorded[layer]) for layer in range(6))
        assert torch.equal(model.model.norm(mine["hidden_states.6"]), recorded[6])


def test_an_encoder_decoder_model_goes_on_within_a_budget(zoo: Path) -> None:
    report = ran(zoo / "seq2seq-t5", resident=100_000, ids=(20, 21, 22), generate=4)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(zoo / "seq2seq-t5")
    assert [list(row) for row in report.generated_tokens] == model.generate(
        torch.tensor([[20, 21, 22]]), max_new_tokens=4, decoder_start_token_id=0
    ).tolist()
    assert report.streamed is not None
    assert report.streamed.peak_resident_bytes <= 100_000


def test_an_encoder_is_asked_for_its_last_token_where_none_is_masked(zoo: Path) -> None:
    report = ran(zoo / "masked-bert", ids=(20, 21, 22, 23), topk=2)
    model = transformers.AutoModelForMaskedLM.from_pretrained(zoo / "masked-bert")
    with torch.no_grad():
        best = model(torch.tensor([[20, 21, 22, 23]])).logits[0, 3].topk(2).indices.tolist()
    assert [(top.position, [each.token for each in top.tokens]) for top in report.top] == [(3, best)]


def test_the_lens_is_drawn(tmp_path: Path) -> None:
    report = ran(TINY, texts=(*PROMPT, "$x_1$ 数"), lens=True, plot=tmp_path / "lens.svg", topk=1)
    assert "<svg" in (tmp_path / "lens.svg").read_text()
    assert [(line.prompt, line.layer) for line in report.lens] == [(prompt, layer) for layer in range(7) for prompt in (0, 1)]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"texts": ("",)}, "the prompt holds no token"),
        ({"ids": (400,)}, "token 400 is outside the model's vocabulary of 259"),
        ({"texts": PROMPT, "head": True}, r"layers can't begin at 6 of model\.layers: nothing is known of the layers before"),
        ({"texts": PROMPT, "lens": True, "plot": Path("lens.docx")}, "lens.docx is not called as a picture is"),
        ({"texts": PROMPT, "layers": ":1", "output": TINY / "state.safetensors"}, "would lie among the files of the model"),
        ({"texts": PROMPT, "layers": ":1", "output": TINY / "config.json"}, "exists already"),
    ],
)
def test_what_can_not_be_done_is_said(request_: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ran(TINY, **request_)
