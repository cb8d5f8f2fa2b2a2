"""Pipelines of diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LLAMA_CONFIG, Outcome, llama_tensors, write_safetensors
from hub_server import hub

import mlload

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "pipeline"
    (folder / "text_encoder").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    (folder / "text_encoder" / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    write_safetensors(folder / "text_encoder" / "model.safetensors", llama_tensors())
    return folder


def test_a_pipeline_names_its_models(pipeline: Path) -> None:
    words = r"is a diffusers pipeline \(StableDiffusionPipeline\) of several models: text_encoder, unet; inspect one of these folders"
    with pytest.raises(mlload.UsageError, match=words):
        mlload.inspect(pipeline)
    assert mlload.inspect(pipeline / "text_encoder").problems == ()


def test_a_pipelines_model_on_a_hub_is_read_by_file(run: Callable[..., Outcome], pipeline: Path) -> None:
    with hub() as server:
        server.add("org/pipeline", pipeline)
        env = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0"}
        assert "such as --file text_encoder/model.safetensors" in run("inspect", "org/pipeline", env=env).err
        report = run("inspect", "org/pipeline", "--file", "text_encoder/model.safetensors", "--json", env=env).json
    assert (report["family"], report["problems"]) == ("llama", [])


def test_weights_beside_an_index_that_lists_no_model_are_read(pipeline: Path) -> None:
    (pipeline / "text_encoder" / "model_index.json").write_text('{"_class_name": 1, "x": [], "y": [1, 2]}')
    assert mlload.inspect(pipeline / "text_encoder").family == "llama"
