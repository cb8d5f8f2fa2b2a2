"""Runners: equal to transformers' own model by model, heads only where the checkpoint has them, names and files of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import transformers
from transformers import AutoTokenizer

import mlload
from mlload import ModelSpec, load_model

TEXTS = ["the bank of the river is unlikely", "he deposited the check at the bank", "a"]
OWN_CLASS = {
    "mbert": "BertForMaskedLM",
    "xlmr": "XLMRobertaForMaskedLM",
    "labse": "BertModel",
    "minilm": "BertModel",
    "roberta-classifier": "RobertaForSequenceClassification",
    "mt5": "MT5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
HEADLESS = ("labse", "minilm", "roberta-classifier")
Models = Callable[[str], Path]


def transformers_own(folder: Path, name: str, batch: Any, **options: Any) -> Any:
    model = getattr(transformers, OWN_CLASS[name]).from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(**batch, output_hidden_states=True, output_attentions=True, **options)


def same(ours: Any, theirs: Any) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", OWN_CLASS)
def test_everything_equals_transformers_own(tiny_model: Models, name: str) -> None:
    folder = tiny_model(name)
    runner = load_model(folder, device="cpu")
    batch = runner.tokenize(TEXTS)
    ours, theirs = runner.forward(batch), transformers_own(folder, name, batch)
    if name in ("mt5", "bart"):
        assert same(ours.encoder_hidden_states, theirs.encoder_hidden_states)
        assert same(ours.decoder_hidden_states, theirs.decoder_hidden_states)
        for ours_key, theirs_key in (
            ("attentions", "encoder_attentions"),
            *((key, key) for key in ("decoder_attentions", "cross_attentions")),
        ):
            assert same(ours.extra[ours_key], theirs[theirs_key])
    else:
        assert same(ours.hidden_states, theirs.hidden_states)
        assert same(ours.extra["attentions"], theirs.attentions)
    if name in HEADLESS:
        assert ours.logits is None
    else:
        assert torch.equal(ours.logits, theirs.logits)
    assert runner.model.config.output_hidden_states


@pytest.mark.parametrize("name", OWN_CLASS)
def test_hidden_states_without_the_head_are_the_same(tiny_model: Models, name: str) -> None:
    whole, bare = load_model(tiny_model(name), device="cpu"), load_model(tiny_model(name), device="cpu", head=False)
    batch = whole.tokenize(TEXTS)
    ours = bare.forward(batch, layers=[0, 2])
    assert ours.logits is None
    assert not bare.has_head
    for layer in (0, 2):
        assert torch.equal(ours.hidden_states[layer], whole.forward(batch).hidden_states[layer])


def test_the_seeds_example(tiny_model: Models) -> None:
    runner = load_model(tiny_model("xlmr"), device="cpu")
    batch = runner.tokenize(["He deposited the check at the bank."])
    outputs = runner.forward(batch)
    hidden_states = outputs.encoder_hidden_states
    assert len(hidden_states) == 4  # the embeddings and three layers
    assert outputs.decoder_hidden_states is None
    assert outputs.logits.shape == (*outputs.input_ids.shape, len(runner.tokenizer))
    spec = ModelSpec(
        name="llama3", hf_id="meta-llama/Meta-Llama-3-8B", arch="decoder_only", dtype="bf16", use_bitsandbytes=True, tokenizer_kwargs=None
    )
    assert spec == mlload.runners.models.registered_models()["llama3"]
    assert {"mbert", "xlmr", "mt5", "llama3", "labse", "minilm", "tiny"} <= set(mlload.list_available_models())


def test_classes_are_chosen_by_what_the_checkpoint_is(tiny_model: Models) -> None:
    assert isinstance(load_model(tiny_model("mbert"), device="cpu"), mlload.EncoderModelRunner)
    assert isinstance(load_model(tiny_model("mt5"), device="cpu"), mlload.Seq2SeqModelRunner)
    assert isinstance(load_model("tiny", device="cpu"), mlload.DecoderModelRunner)
    assert mlload.EncoderModelRunner.__bases__ == (mlload.BaseModelRunner,)


def test_models_that_see_are_read_as_text(llava: Path, clip: Path) -> None:
    runner = load_model(llava, device="cpu")
    batch = runner.tokenize("what is this")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(llava, attn_implementation="eager")
    wanted = model(**batch, output_hidden_states=True)
    assert torch.equal(runner.forward(batch).logits, wanted.logits)
    assert same(runner.forward(batch).decoder_hidden_states, wanted.hidden_states)
    with pytest.raises(mlload.UsageError, match="CLIPModel is no model that goes on from text"):
        load_model(clip, device="cpu")


def test_a_config_that_promises_a_head_gets_none_that_is_not_there(tiny_model: Models, tmp_path: Path) -> None:
    model = transformers.BertForMaskedLM.from_pretrained(tiny_model("mbert"))
    model.bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(mlload.InvalidCheckpointError, match="needs it, but the checkpoint does not hold it"):
        load_model(tmp_path, device="cpu")  # the plain model wants a pooler, which is not there either
    transformers.BertModel(model.config).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tiny_models.tokenizer().save_pretrained(tmp_path)
    runner = load_model(tmp_path, device="cpu")
    assert (type(runner.model).__name__, runner.has_head) == ("BertModel", False)


def test_right_padding_changes_nothing_but_rounding(tiny_model: Models) -> None:
    for name in ("gpt2", "llama", "xlmr", "mt5"):
        runner = load_model(tiny_model(name), device="cpu")
        together = runner.forward(runner.tokenize(TEXTS), logits=False)
        for row, text in enumerate(TEXTS):
            alone = runner.forward(runner.tokenize(text), logits=False)
            for both, one in zip(together.hidden_states, alone.hidden_states, strict=True):
                assert torch.allclose(both[row, : one.shape[1]], one[0], atol=1e-5)


def test_targets_are_what_the_decoder_is_to_say(tiny_model: Models) -> None:
    runner = load_model(tiny_model("mt5"), device="cpu")
    batch = runner.tokenize(["the bank", "a"], targets=["he is red", "she"])  # pyright: ignore[reportCallIssue]
    labels = runner.tokenizer(["he is red", "she"], return_tensors="pt", padding=True).input_ids
    assert torch.equal(batch["decoder_input_ids"], runner.model.prepare_decoder_input_ids_from_labels(labels))  # pyright: ignore[reportCallIssue]
    assert runner.forward(batch).decoder_hidden_states[0].shape[1] == labels.shape[1]


@pytest.mark.parametrize("method", ["int8", "nf4"])
def test_a_decoder_in_fewer_bits(method: str) -> None:
    pytest.importorskip("bitsandbytes")
    spec = ModelSpec("mine", "tiny", use_bitsandbytes=method == "int8")
    runner = load_model(spec, device="cpu", quantize=None if method == "int8" else method)
    assert runner.model.is_quantized
    exact = load_model(spec, device="cpu", quantize="none")
    batch = exact.tokenize(TEXTS)
    ours, wanted = runner.forward(batch).logits, exact.forward(batch).logits
    assert not torch.equal(ours, wanted)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), wanted.flatten(), dim=0) > 0.98


def test_streamed_it_is_the_same(tiny_model: Models) -> None:
    runner, streamed = (load_model(tiny_model("llama"), device="cpu", resident=size) for size in (None, 40_000))
    batch = runner.tokenize(TEXTS)
    assert streamed.loaded.streamer is not None
    assert same(streamed.forward(batch).hidden_states, runner.forward(batch).hidden_states)


def test_longer_texts_are_cut_to_what_the_model_reads(tiny_model: Models) -> None:
    runner = load_model(tiny_model("xlmr"), device="cpu")
    assert runner.max_length == 62
    assert runner.tokenize("the bank " * 100)["input_ids"].shape == (1, 62)
    assert runner.forward(runner.tokenize("the bank " * 100)).logits is not None
    assert runner.tokenize("the bank " * 100, max_length=5)["input_ids"].shape == (1, 5)


def test_embeddings_follow_the_makers(tiny_model: Models) -> None:
    folder = tiny_model("labse")
    pooled = load_model(ModelSpec("mine", str(folder), pooling="pooler"), device="cpu")
    batch = pooled.tokenize(TEXTS)
    wanted = transformers_own(folder, "labse", batch)
    assert torch.allclose(pooled.embed(TEXTS, normalize=False), wanted.pooler_output, atol=1e-6)
    mean = load_model(folder, device="cpu").embed(TEXTS)
    mask = batch["attention_mask"][:, :, None]
    theirs = torch.nn.functional.normalize((wanted.last_hidden_state * mask).sum(1) / mask.sum(1), dim=1)
    assert torch.allclose(mean, theirs, atol=1e-6)


def test_sentence_transformers_own_files_are_read(tiny_model: Models, tmp_path: Path) -> None:
    transformers.AutoModel.from_pretrained(tiny_model("minilm")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model("minilm")).save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    runner = load_model(tmp_path, device="cpu")
    assert (runner.pooling, runner.max_length) == ("cls", 6)


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_models_of_ones_own(tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    lines = {
        "json": json.dumps({"mine": {"path": str(tiny_model("gpt2")), "dtype": "bf16"}}),
        "toml": f'[mine]\npath = "{tiny_model("gpt2")}"\ndtype = "bf16"\n',
    }
    (tmp_path / f"models.{suffix}").write_text(lines[suffix])
    monkeypatch.setenv("MLLOAD_MODELS", str(tmp_path / f"models.{suffix}"))
    assert mlload.list_available_models()[0] == "mine"
    assert load_model("mine", device="cpu").dtype is torch.bfloat16
    assert mlload.inspect("mine").num_layers == 3


def test_the_users_folder_of_settings_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "mlload").mkdir()
    (tmp_path / "mlload" / "models.json").write_text('{"tiny": {"hf_id": "org/other"}}')
    with pytest.raises(mlload.MlloadError, match="org/other"):
        mlload.inspect("tiny")


WRONG_FILES = {
    "no-json": ("{", "can't be read"),
    "no-table": ("[]", "is not a table of models"),
    "unknown-key": ('{"a": {"hf_id": "o/m", "dtpye": "bf16"}}', "unknown key 'dtpye'; did you mean 'dtype'"),
    "wrong-type": ('{"a": {"hf_id": 3}}', "hf_id of 3; it is a str"),
    "no-place": ('{"a": {"dtype": "bf16"}}', "names no checkpoint, or two"),
    "architecture": ('{"a": {"hf_id": "o/m", "arch": "encoder"}}', "unknown arch 'encoder'; did you mean 'encoder_only'"),
}


@pytest.mark.parametrize(("content", "words"), WRONG_FILES.values(), ids=list(WRONG_FILES))
def test_wrong_files_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, words: str) -> None:
    (tmp_path / "models.json").write_text(content)
    monkeypatch.setenv("MLLOAD_MODELS", str(tmp_path / "models.json"))
    with pytest.raises(mlload.UsageError, match=words):
        mlload.list_available_models()


def test_a_file_of_models_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLOAD_MODELS", "/nothing.json")
    with pytest.raises(mlload.UsageError, match=r"MLLOAD_MODELS names /nothing\.json, which is no file"):
        mlload.list_available_models()


def test_dtypes_and_devices_by_name() -> None:
    names = ["bf16", "fp16", "half", "fp32", "float32", "torch.bfloat16", torch.float16, "auto", None]
    wanted = [torch.bfloat16, torch.float16, torch.float16, torch.float32, torch.float32, torch.bfloat16, torch.float16, None, None]
    assert [mlload.resolve_dtype(name) for name in names] == wanted
    assert [str(mlload.coerce_device(name)) for name in ("cpu", -1, torch.device("cpu"))] == ["cpu"] * 3
    with pytest.raises(mlload.UsageError, match="unknown dtype 'bf61'; did you mean 'bf16'"):
        mlload.resolve_dtype("bf61")
    with pytest.raises(mlload.DoesNotFitError, match="no device 'cuda:77'"):
        mlload.coerce_device(77)


REFUSED = {
    "nothing-to-read": (lambda models: load_model(models("gpt2"), device="cpu").tokenize(["", ""]), mlload.UsageError, "no token"),
    "no-text": (lambda models: load_model("./nowhere"), mlload.NotFoundError, "nowhere"),
    "method": (lambda models: load_model(models("gpt2"), quantize="nf5"), mlload.UsageError, "'nf5'; did you mean 'nf4'"),
}


@pytest.mark.parametrize(("act", "error", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(tiny_model: Models, act: Any, error: type[mlload.MlloadError], words: str) -> None:
    with pytest.raises(error, match=words):
        act(tiny_model)
