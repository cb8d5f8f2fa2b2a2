"""Parts of a forward, chained, are the whole one to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from partial_conformance import differences

from mlload.configs import FOLDER
from mlload.layers.layered import LayeredModel
from mlload.layers.lens import logit_lens
from mlload.layers.partial import partial_forward
from mlload.layers.state import ForwardState
from mlload.loader.errors import UsageError
from mlload.loader.settings import ModelLoadingConfig

PROMPT = "Q: What is a shard?"


@pytest.fixture(scope="module")
def tiny() -> LayeredModel:
    return LayeredModel(ModelLoadingConfig("tiny", device="cpu"))


@pytest.fixture(scope="module")
def whole() -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER / "tiny")


def ids_of(text: str) -> torch.Tensor:
    return transformers.AutoTokenizer.from_pretrained(FOLDER / "tiny")(text, return_tensors="pt")["input_ids"]


def logits_of(model: transformers.PreTrainedModel, text: str = PROMPT) -> torch.Tensor:
    with torch.no_grad():
        return model(ids_of(text), use_cache=False).logits


@pytest.mark.filterwarnings("ignore")
def test_every_model_type_can_be_cut_before_every_layer(zoo: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, list[str]] = {}
    for folder in sorted(path.parent for path in zoo.glob("*/truth.json")):
        scratch = tmp_path / folder.name
        scratch.mkdir()
        found[folder.name] = differences(folder, scratch)
    torch.set_num_threads(threads)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_a_part_reads_no_other_units(whole: transformers.PreTrainedModel) -> None:
    first, last = (LayeredModel(ModelLoadingConfig("tiny", device="cpu")) for _ in range(2))
    state = partial_forward(first, PROMPT, layers=":2").state
    assert torch.equal(partial_forward(last, state=state, layers="2:").logits, logits_of(whole))
    used = [[unit.name for unit in model.loaded.streamer.units if unit.content is not None] for model in (first, last)]
    assert used[0] == ["model.embed_tokens", "model.layers.0", "model.layers.1"]
    assert set(used[1]).isdisjoint({"model.layers.0", "model.layers.1"})


def test_a_state_can_be_gone_on_with_again_and_again(tiny: LayeredModel, whole: transformers.PreTrainedModel) -> None:
    state = partial_forward(tiny, PROMPT, layers=":3").state
    for _ in range(2):
        assert torch.equal(partial_forward(tiny, state=state).logits, logits_of(whole))


def test_a_state_holds_a_cache_where_one_is_asked_for(tiny: LayeredModel, whole: transformers.PreTrainedModel, tmp_path: Path) -> None:
    ids, cache, past = ids_of(PROMPT), None, None
    for number, part in enumerate((ids[:, :12], ids[:, 12:])):
        inputs = {"input_ids": part, "use_cache": True, "past_key_values": cache}
        state = partial_forward(tiny, inputs=inputs, layers=":3").state
        assert state is not None
        state.save(tmp_path / f"{number}.safetensors")
        mine = partial_forward(tiny, state=tmp_path / f"{number}.safetensors")
        with torch.no_grad():
            expected = whole(part, use_cache=True, past_key_values=past)
        assert torch.equal(mine.logits, expected.logits)
        cache, past = mine.past_key_values, expected.past_key_values
    assert cache.get_seq_length() == ids.shape[1]


def test_prompts_of_different_lengths_share_a_pass(tiny: LayeredModel, whole: transformers.PreTrainedModel) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER / "tiny", padding_side="left")
    texts = [PROMPT, "A checkpoint is"]
    padded = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = whole(padded["input_ids"], attention_mask=padded["attention_mask"]).logits
    state = partial_forward(tiny, texts, layers=":2").state
    assert state is not None
    assert state.texts == tuple(texts)
    assert torch.equal(partial_forward(tiny, state=state).logits, expected)


def test_layers_can_be_left_out_and_gone_through_twice(tiny: LayeredModel, whole: transformers.PreTrainedModel) -> None:
    layers = whole.model.layers
    for times in (0, 2):
        hook = layers[3].register_forward_hook(
            lambda layer, args, kwargs, out, times=times: args[0] if times == 0 else type(layer).forward(layer, out, **kwargs),
            with_kwargs=True,
        )
        expected = logits_of(whole)
        hook.remove()
        assert torch.equal(partial_forward(tiny, PROMPT, times={3: times}).logits, expected)
        assert not torch.equal(expected, logits_of(whole))


def test_the_lens_is_norm_and_head_after_each_layer(tiny: LayeredModel, whole: transformers.PreTrainedModel) -> None:
    part = partial_forward(tiny, PROMPT, layers=":6", hidden_states=True)
    lines = logit_lens(tiny, part, count=3)
    assert [line.layer for line in lines] == list(range(7))
    with torch.no_grad():
        recorded = whole(ids_of(PROMPT), output_hidden_states=True).hidden_states
        for line in lines[:-1]:
            logits = whole.lm_head(whole.model.norm(recorded[line.layer][:, -1:]))[0, 0]
            assert [candidate.token for candidate in line.tokens] == logits.topk(3).indices.tolist()
    assert lines[-1].tokens[0].logit == logits_of(whole)[0, -1].max().item()
    assert lines[-1].tokens[0].text == "\n"


def test_an_encoder_can_be_run_alone_and_gone_on_from(zoo: Path) -> None:
    model = LayeredModel(ModelLoadingConfig(zoo / "seq2seq-t5", device="cpu"))
    inputs = {"input_ids": torch.arange(20, 28)[None], "decoder_input_ids": torch.tensor([[0, 5]])}
    encoded = partial_forward(model, inputs=inputs, stack="encoder")
    assert (encoded.stack, encoded.first, encoded.last) == ("encoder.block", 0, 3)
    begun = partial_forward(model, state=encoded.state, layers=":1")
    assert (begun.stack, begun.first, begun.last) == ("decoder.block", 0, 1)
    assert torch.equal(partial_forward(model, state=begun.state).logits, partial_forward(model, inputs=inputs).logits)


def test_a_vision_stack_can_be_run_alone_and_gone_on_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**sizes, image_size=8, patch_size=4)
    config = transformers.LlavaConfig(vision_config=vision, text_config=transformers.LlamaConfig(**sizes, vocab_size=50), image_token_id=4)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    inputs = {"input_ids": torch.tensor([[7, 4, 4, 4, 4, 8]]), "pixel_values": torch.randn(1, 3, 8, 8)}
    model = LayeredModel(ModelLoadingConfig(tmp_path, device="cpu"))
    expected = partial_forward(model, inputs=inputs).logits
    begun = partial_forward(model, inputs=inputs, stack="vision", layers=":1")
    assert (begun.stack, begun.first, begun.last, begun.num_layers) == ("model.vision_tower.encoder.layers", 0, 1, 3)
    seen = partial_forward(model, state=begun.state, stack="vision", layers="1:2")
    assert torch.equal(partial_forward(model, state=seen.state, stack="vision", head=True).logits, expected)
    whole = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(whole(**inputs).logits, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "3:"}, "layers can't begin at 3 of model.layers: nothing is known of the layers before; begin at 0"),
        ({"layers": "0:7"}, "there is no layer 7: model.layers has 6; layers are counted from 0"),
        ({"layers": "0-3"}, "'0-3' is no range of layers; write 0:8, 8: or :"),
        ({"layers": "0:3", "head": True}, "layers 0:3 of 6: the head comes after the last layer; for example 0:6"),
        ({"stack": "vision"}, "the model has no stack 'vision'; its stacks: model.layers"),
        ({"stack": "model.layer"}, "the model has no stack 'model.layer'; did you mean 'model.layers'?"),
        ({"layers": ":2", "times": {4: 0}}, "layer 4 is not among those that are run; they are 0 to 1"),
    ],
)
def test_what_can_not_be_run_is_said_before_anything_is_read(tiny: LayeredModel, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        partial_forward(tiny, PROMPT, **options)
    assert str(caught.value) == message


def test_a_state_begins_where_it_stopped(tiny: LayeredModel) -> None:
    state = partial_forward(tiny, PROMPT, layers=":2").state
    with pytest.raises(UsageError, match=r"layers can't begin at 4 of model\.layers: the state comes before layer 2; begin at 2"):
        partial_forward(tiny, state=state, layers="4:")
    with pytest.raises(UsageError, match="there must be one thing to begin with"):
        partial_forward(tiny, PROMPT, state=state)


def test_a_cut_that_would_lose_something_is_refused(zoo: Path) -> None:
    """Gemma 3n adds up what several projections make of one tensor: between them there is more than one tensor knows."""
    model = LayeredModel(ModelLoadingConfig(zoo / "causal-gemma3n_text", device="cpu"))
    state = partial_forward(model, inputs={"input_ids": torch.arange(8)[None]}, stack="model.altup_projections", layers=":2").state
    with pytest.raises(UsageError, match=r"can't be gone on with at layer 2 of model\.altup_projections"):
        partial_forward(model, state=state, head=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float32"}, "the state is in bfloat16, the model in float32; load it in bfloat16"),
        ({"model_name": "other weights"}, r"the state is of other weights of this architecture: tiny; name the model, .*"),
        ({"model_name": "other model"}, "the state is of another model: tiny, a LlamaForCausalLM; name that one"),
    ],
)
def test_a_state_of_another_model_is_refused(tiny: LayeredModel, tmp_path: Path, settings: dict[str, str], message: str) -> None:
    other = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / "tiny")
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    for name, shards in {"other weights": "450KB", "other model": "1GB"}.items():
        other.config.rope_parameters["rope_theta"] *= 2 if name == "other model" else 1
        other.save_pretrained(tmp_path / name, max_shard_size=shards)
    state = partial_forward(tiny, PROMPT, layers=":2").state
    name = settings.pop("model_name", "tiny")
    with pytest.raises(UsageError, match=message):
        partial_forward(ModelLoadingConfig(name if name == "tiny" else tmp_path / name, device="cpu", **settings), state=state)


def test_a_state_lies_in_one_file_that_is_never_overwritten(tiny: LayeredModel, tmp_path: Path) -> None:
    state = partial_forward(tiny, [PROMPT, "A"], layers=":2").state
    assert state is not None
    state.save(tmp_path / "state.safetensors")
    again = ForwardState.load(tmp_path / "state.safetensors")
    assert (again.stack, again.layer, again.texts, again.model) == (state.stack, state.layer, state.texts, state.model)
    assert torch.equal(again.hidden_states, state.hidden_states)
    assert torch.equal(again.inputs["attention_mask"], state.inputs["attention_mask"])
    with pytest.raises(UsageError, match=r"state\.safetensors exists already"):
        state.save(tmp_path / "state.safetensors")
