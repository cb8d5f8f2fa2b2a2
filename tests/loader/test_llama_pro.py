"""LLaMA Pro: expanded weights as they are stored, and expanded while they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import mlload
from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def llama(folder: Path, layers: int, *, config: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(layers)
    sizes = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=layers)).eval()
    model.save_pretrained(folder)
    if not config:
        (folder / "config.json").unlink()
    return model


@pytest.fixture
def base(tmp_path: Path) -> LlamaForCausalLM:
    return llama(tmp_path / "base", 4)


def expanded(tmp_path: Path, folder: str) -> ModelLoadingConfig:
    return ModelLoadingConfig(tmp_path / "base", llama_pro_path=tmp_path / folder)


@pytest.mark.usefixtures("base")
def test_expanded_weights_are_loaded(tmp_path: Path) -> None:
    wanted = llama(tmp_path / "blk_exp-4-6", 6, config=False).state_dict()
    loaded = load(expanded(tmp_path, "blk_exp-4-6"))
    assert loaded.model.config.num_hidden_layers == 6
    assert loaded.folder == tmp_path / "base"
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("mmap", [True, False])
def test_layers_of_the_base_alone_are_expanded(tmp_path: Path, base: LlamaForCausalLM, mmap: bool) -> None:
    base.save_pretrained(tmp_path / "blk_exp-4-6", max_shard_size="4KB")
    settings = expanded(tmp_path, "blk_exp-4-6")
    settings.mmap = mmap
    model = load(settings).model
    assert model.config.num_hidden_layers == len(model.model.layers) == 6
    assert [layer.mlp.down_proj.weight.any().item() for layer in model.model.layers] == [True, True, False] * 2
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, base(IDS).logits)


def test_an_inserted_layer_changes_alone(tmp_path: Path, base: LlamaForCausalLM) -> None:
    base.save_pretrained(tmp_path / "blk_exp-4-6")
    layers = load(expanded(tmp_path, "blk_exp-4-6")).model.model.layers
    with torch.no_grad():
        for parameter in layers[2].parameters():
            parameter.fill_(7)
    assert all(torch.equal(value, base.model.layers[1].state_dict()[name]) for name, value in layers[1].state_dict().items())


@pytest.mark.parametrize(
    ("folder", "error", "words"),
    [
        ("expanded", mlload.UsageError, "the name of 'expanded' tells no numbers of layers"),
        ("blk_exp-4-7", mlload.UsageError, "tells no numbers"),
        ("blk_exp-6-8", mlload.InvalidCheckpointError, "holds 4 layers, but its name says 6 or 8"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, base: LlamaForCausalLM, folder: str, error: type[Exception], words: str) -> None:
    base.save_pretrained(tmp_path / folder)
    with pytest.raises(error, match=words):
        load(expanded(tmp_path, folder))
