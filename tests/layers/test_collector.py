"""Layers collected one by one: the seed's example, every parameter of it, and the whole model as the judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoTokenizer

from mlload import LlmLayerCollector, QuantizationConfig, QuantizationMethod, compute_embedding, compute_head, compute_layer
from mlload.configs import FOLDER
from mlload.layers.compute import ComputeState
from mlload.layers.shard_cache import ShardCache
from mlload.loader.checkpoint import Checkpoint, HeaderReading
from mlload.loader.errors import MlloadError
from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig

TINY = FOLDER / "tiny"
TEXT = "Q: What is a shard?"


def collected(model: Path, tmp_path: Path, **options: object) -> LlmLayerCollector:
    return LlmLayerCollector(model_dir=model, cache_file=tmp_path / "cache.json", **{"dtype": "auto", **options})  # pyright: ignore[reportArgumentType]


def gone_through(collector: LlmLayerCollector, ids: torch.Tensor, **options: object) -> ComputeState:
    state = compute_embedding(collector.load_input_embedding(), ids, collector.config, **options)  # pyright: ignore[reportArgumentType]
    for layer in collector.load_layer_set(0, collector.num_layers - 1):
        state.state = compute_layer(layer, state)
    return state


def opened(folder: Path, cache: Path) -> Checkpoint:
    return Checkpoint.open(folder, reading=HeaderReading(ShardCache(cache).read_header))


def whole(model: Path, **settings: object) -> transformers.PreTrainedModel:
    return load(ModelLoadingConfig(model, device="cpu", **settings)).model  # pyright: ignore[reportArgumentType]


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    collector = LlmLayerCollector(model_dir=TINY, cache_file="cache.json", device="cpu", dtype=torch.float16)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    input_text = "The quick brown fox"
    input_ids = tokenizer(input_text, return_tensors="pt")["input_ids"]

    embedding = collector.load_input_embedding()
    norm = collector.load_norm()
    head = collector.load_head()
    layers = collector.load_layer_set(0, collector.num_layers - 1)

    state = compute_embedding(embedding, input_ids, collector.config)
    for layer in layers:
        state.state = compute_layer(layer, state)
    predictions = compute_head(head, norm(state.state), topk=1)

    model = transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float16)
    with torch.no_grad():
        logits = model(input_ids, use_cache=False).logits
    assert predictions.tolist() == logits[:, -1:].argmax(-1).tolist()
    assert compute_head(head, state, topk=3).tolist() == logits[:, -1].topk(3).indices.tolist()
    assert torch.equal(compute_head(head, state, topk=None), logits)
    assert len(layers) == 6
    assert {parameter.dtype for layer in layers for parameter in layer.parameters()} == {torch.float16}


def test_every_part_can_be_named(tmp_path: Path) -> None:
    collector = collected(
        TINY,
        tmp_path,
        shard_pattern=r"model-\d+-of-00003\.safetensors",
        layer_prefix="model.layers.",
        input_embedding_layer_name="model.embed_tokens.weight",
        norm_layer_name="model.norm.weight",
        lm_head_name="model.layers.0.mlp.down_proj.weight",  # no head, but what is named is taken
    )
    assert collector.num_layers == 6
    assert collector.stacks == {"model.layers": 6}
    assert [type(part).__name__ for part in (collector.load_input_embedding(), collector.load_norm())] == ["Embedding", "LlamaRMSNorm"]
    assert collector.load_head().weight.shape == whole(TINY).model.layers[0].mlp.down_proj.weight.shape


def test_a_layer_is_that_of_the_whole_model_and_opens_no_other_shard(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "model")
    collector = collected(folder, tmp_path)
    for shard in folder.glob("*.safetensors"):
        if "model.layers.1.mlp.up_proj.weight" not in load_file(shard):
            shard.unlink()
    layer = collector.load_layer(1)
    expected = whole(TINY).model.layers[1].state_dict()
    assert layer.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in layer.state_dict().items())
    assert all(parameter.requires_grad for parameter in layer.parameters())


def test_a_layer_is_loaded_anew_each_time(tmp_path: Path) -> None:
    collector = collected(TINY, tmp_path)
    first, second = collector.load_layer(0), collector.load_layer(0)
    with torch.no_grad():
        first.mlp.up_proj.weight.zero_()
    assert second.mlp.up_proj.weight.any()


@pytest.mark.parametrize(
    "name", ["causal-gemma2", "causal-gpt2", "causal-bloom", "causal-mixtral", "masked-bert", "causal-gpt_neox", "seq2seq-t5"]
)
def test_layers_of_any_model_give_its_logits(zoo: Path, tmp_path: Path, name: str) -> None:
    model = whole(zoo / name)
    ids = torch.arange(20, 28)[None]
    inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    collector = collected(zoo / name, tmp_path)
    state = gone_through(collector, ids, inputs=inputs)
    with torch.no_grad():
        expected = model(ids, **inputs).logits
    assert torch.equal(compute_head(collector.load_head(), state, topk=None), expected)


def test_an_encoder_is_a_stack_like_any_other(zoo: Path, tmp_path: Path) -> None:
    collector = collected(zoo / "seq2seq-t5", tmp_path, layer_prefix="encoder")
    ids = torch.arange(20, 28)[None]
    state = gone_through(collector, ids)
    model = whole(zoo / "seq2seq-t5")
    with torch.no_grad():
        assert torch.equal(model.encoder.final_layer_norm(state.state), model.encoder(ids).last_hidden_state)
    assert [len(collector.load_layer_set(0, 1, stack=stack)) for stack in ("encoder", "decoder")] == [2, 2]


@pytest.mark.parametrize("name", ["causal-llama", "causal-gemma2", "causal-gemma3_text"])
def test_a_prompt_in_parts_goes_through_a_cache(zoo: Path, tmp_path: Path, name: str) -> None:
    model, collector = whole(zoo / name), collected(zoo / name, tmp_path)
    head, ids = collector.load_head(), torch.arange(20, 28)[None]
    first = gone_through(collector, ids[:, :5], use_cache=True)
    second = gone_through(collector, ids[:, 5:], past_key_values=first.past_key_values)
    with torch.no_grad():
        past = model(ids[:, :5], use_cache=True).past_key_values
        expected = model(ids[:, 5:], past_key_values=past, use_cache=True).logits
    assert torch.equal(compute_head(head, second, topk=None), expected)


def test_prompts_of_different_lengths_are_masked(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY, padding_side="left")
    given = tokenizer([TEXT, "A"], return_tensors="pt", padding=True)
    collector = collected(TINY, tmp_path)
    state = gone_through(collector, given["input_ids"], attention_mask=given["attention_mask"])
    with torch.no_grad():
        expected = whole(TINY)(**given).logits
    assert torch.equal(compute_head(collector.load_head(), state, topk=None), expected)


def test_a_state_can_be_changed_and_layers_left_out(tmp_path: Path) -> None:
    collector, model = collected(TINY, tmp_path), whole(TINY)
    ids = torch.arange(20, 28)[None]
    state = compute_embedding(collector.load_input_embedding(), ids, collector.config)
    for number in (0, 1, 3, 4, 5):
        state.state = compute_layer(collector.load_layer(number), state) * (2 if number == 1 else 1)
    handles = [
        model.model.layers[2].register_forward_hook(lambda _, args, __: args[0]),
        model.model.layers[1].register_forward_hook(lambda _, __, output: output * 2),
    ]
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    assert torch.equal(compute_head(collector.load_head(), state, topk=None), expected)
    assert len(handles) == state.layer - 4


def test_a_tied_head_is_there(zoo: Path, tmp_path: Path) -> None:
    collector = collected(zoo / "causal-gemma2", tmp_path)
    assert torch.equal(collector.load_head().weight, collector.load_input_embedding().weight)


@pytest.mark.parametrize("method", [QuantizationMethod.BNB_NF4, QuantizationMethod.BNB_INT8])
def test_layers_are_quantized_when_asked(tmp_path: Path, method: QuantizationMethod) -> None:
    asked = QuantizationConfig(method=method)
    collector = collected(TINY, tmp_path, quantization_config=asked)
    ids = torch.arange(20, 28)[None]
    state = gone_through(collector, ids)
    with torch.no_grad():
        expected = whole(TINY, quantization_config=asked)(ids, use_cache=False).logits
    assert torch.equal(compute_head(collector.load_head(), state, topk=None), expected)


def test_headers_are_kept_until_a_shard_changes(tmp_path: Path) -> None:
    folder, path = shutil.copytree(TINY, tmp_path / "model"), tmp_path / "cache.json"
    collected(folder, tmp_path)
    content = json.loads(path.read_text())
    for shard in content["shards"].values():
        shard["metadata"]["kept"] = "here"
    path.write_text(json.dumps(content))
    assert opened(folder, path).metadata["kept"] == "here"
    for shard in folder.glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes())
    assert "kept" not in opened(folder, path).metadata
    collected(folder, tmp_path)
    assert '"kept"' not in path.read_text()


def test_a_cache_that_lies_is_not_believed(tmp_path: Path) -> None:
    collected(TINY, tmp_path)
    path = tmp_path / "cache.json"
    content = json.loads(path.read_text())
    for shard in content["shards"].values():
        shard["tensors"][0][3] = 1 << 40
    path.write_text(json.dumps(content))
    assert collected(TINY, tmp_path).num_layers == 6
    assert json.loads(path.read_text()) != content


@pytest.mark.parametrize("content", ["[]", "{", '{"model": 1}', "\0"])
def test_a_file_that_is_no_cache_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / "cache.json").write_text(content)
    with pytest.raises(MlloadError, match=r"cache\.json is no cache of shards that mlload wrote; name a file that is not there yet"):
        collected(TINY, tmp_path)
    assert (tmp_path / "cache.json").read_text() == content


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shard_pattern": "pytorch"}, "'pytorch' finds no weights file in"),
        ({"shard_pattern": "("}, r"'\(' is not a regular expression"),
        ({"layer_prefix": "model.layer."}, "the model has no stack 'model.layer'; did you mean 'model.layers'?"),
        (
            {"norm_layer_name": "momdel.norm.weight"},
            "is filled from a tensor 'momdel.norm.weight'; nearest: model.norm",
        ),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(MlloadError, match=words):
        collected(TINY, tmp_path, **options).load_norm()


def test_modules_and_states_that_do_not_go_together_are_refused(zoo: Path, tmp_path: Path) -> None:
    collector, ids = collected(TINY, tmp_path), torch.arange(20, 28)[None]
    embedding, layers = collector.load_input_embedding(), collector.load_layer_set(0, 1)
    with pytest.raises(MlloadError, match="this Embedding was not loaded by a LlmLayerCollector"):
        compute_embedding(torch.nn.Embedding(9, 9), ids, collector.config)
    with pytest.raises(MlloadError, match="the embedding is of a model of type llama, the config of gpt2"):
        compute_embedding(embedding, ids, transformers.GPT2Config())
    state = compute_embedding(embedding, ids, collector.config)
    state.state = compute_layer(layers[1], state)
    with pytest.raises(MlloadError, match=r"the state is before layer 2 of model\.layers: layer 0 lies behind it"):
        compute_layer(layers[0], state)
    with pytest.raises(MlloadError, match=r"model\.embed_tokens is no layer of a stack; load_layer_set gives layers"):
        compute_layer(embedding, state)
    with pytest.raises(MlloadError, match=r"there is no layer 6: model\.layers has 6; layers are counted from 0"):
        collector.load_layer_set(4, 6)
