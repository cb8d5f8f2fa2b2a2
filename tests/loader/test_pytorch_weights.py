"""PyTorch's own files: what comes out of the table reader is what from_pretrained makes of them, bit for bit."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import mlload
from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig

State = dict[str, torch.Tensor]


def single(state: State, folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def legacy(state: State, folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def sharded(state: State, folder: Path) -> None:
    """Every other tensor in a second shard."""
    weight_map = {name: f"pytorch_model-0000{1 + place % 2}-of-00002.bin" for place, name in enumerate(state)}
    for shard in sorted(set(weight_map.values())):
        torch.save({name: tensor for name, tensor in state.items() if weight_map[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def plain(state: State) -> State:
    return state


def strided(state: State) -> State:
    """Every matrix turned, and the columns of a wider one."""
    changed = {name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    wide = torch.cat([state["model.layers.0.mlp.up_proj.weight"]] * 2, dim=1)
    return changed | {"model.layers.0.mlp.up_proj.weight": wide[:, :16]}


def in_one_storage(state: State) -> State:
    """Two matrices as rows of one, and two names for one tensor."""
    both = torch.cat([state["model.layers.0.mlp.gate_proj.weight"], state["model.layers.0.mlp.up_proj.weight"]])
    halves = {"model.layers.0.mlp.gate_proj.weight": both[:24], "model.layers.0.mlp.up_proj.weight": both[24:]}
    return state | halves | {"lm_head.weight": state["model.embed_tokens.weight"]}


@pytest.fixture(params=[False, True], ids=["apart", "tied"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    sizes = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaConfig(**sizes, tie_word_embeddings=request.param, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    return tmp_path


def state_dict(folder: Path) -> State:
    torch.manual_seed(0)
    return dict(LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).state_dict())


@pytest.mark.parametrize("mmap", [True, False], ids=["mapped", "read"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("change", [plain, strided, in_one_storage])
@pytest.mark.parametrize("save", [single, legacy, sharded])
def test_bin_files(
    folder: Path, save: Callable[[State, Path], None], change: Callable[[State], State], dtype: torch.dtype, mmap: bool
) -> None:
    save(change(state_dict(folder)), folder)
    wanted = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).state_dict()
    got = load(ModelLoadingConfig(folder, dtype=dtype, device="cpu", mmap=mmap)).model.state_dict()
    assert list(got) == list(wanted)
    assert all(got[name].dtype == dtype and torch.equal(got[name], tensor) for name, tensor in wanted.items())


def test_tensors_inside_foreign_objects_are_not_left_out_in_silence(folder: Path) -> None:
    state = state_dict(folder)
    torch.save(state | {"extra": argparse.Namespace(mask=torch.ones(2), scale=torch.ones(1))}, folder / "pytorch_model.bin")
    with pytest.raises(mlload.InvalidCheckpointError, match=r"pytorch_model\.bin: 2 tensors lie inside objects"):
        load(ModelLoadingConfig(folder))


def test_a_foreign_object_without_tensors_is_never_made(folder: Path) -> None:
    torch.save(state_dict(folder) | {"args": argparse.Namespace(lr=0.1)}, folder / "pytorch_model.bin")
    assert load(ModelLoadingConfig(folder)).missing == ()


@pytest.mark.parametrize("use_safetensors", [True, False])
def test_safetensors_are_taken_unless_they_are_not_wanted(llama: Path, use_safetensors: bool) -> None:
    state = state_dict(llama)
    torch.save(state | {"model.norm.weight": torch.full_like(state["model.norm.weight"], 2.0)}, llama / "pytorch_model.bin")
    loaded = load(ModelLoadingConfig(str(llama), device="cpu", use_safetensors=use_safetensors))
    assert bool(loaded.model.get_parameter("model.norm.weight")[0] == 2.0) is not use_safetensors
