"""Adapters that PEFT saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome, write_safetensors

import mlload
from mlload.loader.adapter import Adapter

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"], "base_model_name_or_path": "org/base"}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    names = [f"base_model.model.model.layers.0.self_attn.{module}.lora_{side}.weight" for module in ("q_proj", "v_proj") for side in "AB"]
    write_safetensors(tmp_path / "adapter_model.safetensors", {name: ("F32", (4, 8) if "_A" in name else (8, 4)) for name in names})
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_an_adapter_is_told_in_a_line(run: Callable[..., Outcome], adapter: Path) -> None:
    text = run("inspect", adapter).out
    assert text.startswith("LORA adapter  rank 4  of q_proj, v_proj  for org/base\n")
    assert "no problems found" in text


def test_an_adapter_in_the_report(adapter: Path) -> None:
    report = mlload.inspect(adapter)
    assert report.adapter == Adapter("LORA", 4, 8.0, ("q_proj", "v_proj"), "org/base")
    assert (report.parameters, report.problems) == (128, ())


def test_an_adapter_is_not_loaded_as_a_model(run: Callable[..., Outcome], adapter: Path) -> None:
    outcome = run("load", adapter)
    assert outcome.code == 2
    assert "is an adapter for org/base" in outcome.err


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Adapter(None, None, None, (), None)),
        ({"target_modules": ".*_proj"}, Adapter(None, None, None, (".*_proj",), None)),
        ({"peft_type": 1, "r": True, "lora_alpha": "8", "target_modules": [[], 1, "q"]}, Adapter(None, None, None, ("q",), None)),
    ],
)
def test_the_config_may_hold_anything(config: dict[str, object], expected: Adapter) -> None:
    assert Adapter.from_config(config) == expected
