"""The examples of the architectures document, run: a model of any architecture, token by token, whole or lazily."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from mlload import DynamicModel, InferenceState, ModelArchitecture, ModelLoader
from mlload.configs import FOLDER
from mlload.loader.errors import MlloadError
from mlload.loader.settings import LoadingStrategy, ModelLoadingConfig

TINY = FOLDER / "tiny"
TEXT = "Q: What is a shard?"


def greedy(model: DynamicModel, count: int) -> list[int]:
    state = InferenceState(model.config)
    logits = model.fast_forward(state, model.encode(TEXT))
    for _ in range(count):
        logits = model.forward(state, int(logits.argmax()), False)
    return state.tokens


@pytest.mark.parametrize("lazy", [False, True])
def test_automatic_loading(lazy: bool) -> None:
    model = DynamicModel.load_auto("tiny", lazy=lazy)
    assert model.architecture == ModelArchitecture.LLAMA
    assert model.loaded.strategy is (LoadingStrategy.STREAMING if lazy else LoadingStrategy.FULL)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(TINY)
    ids = torch.tensor([model.encode(TEXT)])
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[0].tolist()
    assert greedy(model, 8) == expected
    assert model.decode(expected[ids.shape[1] :]).startswith("\nA: A")


def test_token_by_token() -> None:
    model = ModelLoader.load_auto("tiny")
    state = InferenceState(model.config)
    theirs, past = transformers.AutoModelForCausalLM.from_pretrained(TINY), None
    for token in model.encode("A shard"):
        logits = model.forward(state, token, True)
        with torch.no_grad():
            output = theirs(torch.tensor([[token]]), past_key_values=past, use_cache=True, output_hidden_states=True)
        past = output.past_key_values
        assert torch.equal(logits, output.logits[0, -1])
        assert all(map(torch.equal, state.hidden_states, output.hidden_states))
    assert state.position == len(model.encode("A shard"))
    assert state.logits is logits
    model.forward(state, 5)
    assert state.hidden_states == ()


def test_a_specific_architecture() -> None:
    model = ModelLoader.load_as("tiny", ModelArchitecture.MISTRAL)
    assert (model.architecture, type(model.loaded.model).__name__) == ("mistral", "MistralForCausalLM")
    assert greedy(model, 4) == greedy(ModelLoader.load_as("tiny", "llama"), 4)


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("phi", "PhiForCausalLM needs it, but the checkpoint does not hold it"),
        ("other", "'other' is no architecture that a model can be loaded as"),
        ("lama", "unknown modelarchitecture 'lama'; did you mean 'llama'"),
    ],
)
def test_another_architecture_is_refused(architecture: str, words: str) -> None:
    with pytest.raises(MlloadError, match=words):
        ModelLoader.load_as("tiny", architecture)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gpt2", "bloom", "mamba", "rwkv", "openai-gpt", "gemma3_text", "falcon_h1", "mixtral"])
def test_any_model_that_goes_on_does_so_a_token_at_a_time(zoo: Path, name: str) -> None:
    model = DynamicModel.load_auto(ModelLoadingConfig(zoo / f"causal-{name}", device="cpu"))
    state, ids = InferenceState(model.config), list(range(20, 28))
    for token in ids:
        logits = model.fast_forward(state, token)
    with torch.no_grad():
        expected = model.loaded.model(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits, expected, atol=1e-4)


def test_what_does_not_belong_together_is_refused(zoo: Path) -> None:
    model = DynamicModel.load_auto("tiny")
    with pytest.raises(MlloadError, match="the state is of a model of type gpt2, this one is of llama"):
        model.forward(InferenceState(transformers.GPT2Config()), 1)
    with pytest.raises(MlloadError, match="token 400 is outside the model's vocabulary of 259; `encode` gives a text's tokens"):
        model.forward(InferenceState(model.config), 400)
    with pytest.raises(MlloadError, match="T5ForConditionalGeneration reads a text before it writes one"):
        DynamicModel.load_auto(zoo / "seq2seq-t5")
