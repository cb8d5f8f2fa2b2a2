"""The sizes that a config declares against the tensors: what contradicts is found, what families do on purpose is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LLAMA_CONFIG, Outcome, Table, llama_tensors, write_safetensors

import mlload
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.validation import find_problems


def problems(folder: Path, table: Table, **config: Any) -> list[tuple[str, str]]:
    """Severity and code of each problem of these tensors under LLaMA's config with these changes."""
    write_safetensors(folder / "model.safetensors", table)
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG | config))
    return [(problem.severity, problem.code) for problem in find_problems(Checkpoint.open(folder))]


def reshaped(layers: tuple[int, ...] = (0, 1), **shapes: tuple[int, int]) -> Table:
    """A small Llama with these projections of those layers in other shapes."""
    table = llama_tensors()
    changed = {f"model.layers.{layer}.{name.replace('__', '.')}.weight": ("BF16", shapes[name]) for layer in layers for name in shapes}
    return table | changed


CONTRADICTED = {
    "num_key_value_heads": (1, "attention-heads"),
    "num_attention_heads": (2, "attention-heads"),
    "head_dim": (4, "attention-heads"),
    "intermediate_size": (24, "intermediate-size"),
}


@pytest.mark.parametrize("key", CONTRADICTED)
def test_a_size_that_contradicts_every_layer(key: str, tmp_path: Path) -> None:
    value, code = CONTRADICTED[key]
    assert problems(tmp_path, llama_tensors(), **{key: value}) == [("error", code)]


AGREEING: dict[str, tuple[Table, dict[str, Any]]] = {
    "a-layer-of-its-own-size": (reshaped((0,), mlp__up_proj=(24, 8), mlp__down_proj=(8, 24), self_attn__k_proj=(8, 8)), {}),
    "queries-with-a-gate": (reshaped(self_attn__q_proj=(16, 8)), {}),
    "heads-wider-than-hidden": (reshaped(self_attn__q_proj=(16, 8), self_attn__k_proj=(8, 8), self_attn__o_proj=(8, 16)), {"head_dim": 4}),
    "sizes-a-layer": (llama_tensors(), {"intermediate_size": [16, 16], "num_key_value_heads": [2, 2]}),
    "left-open": (llama_tensors(), {"head_dim": None, "num_key_value_heads": None}),
    "code-of-its-own": (llama_tensors(), {"intermediate_size": 24, "auto_map": {"AutoModel": "modeling_x.X"}}),
}


@pytest.mark.parametrize("case", AGREEING)
def test_what_families_do_on_purpose_is_no_contradiction(case: str, tmp_path: Path) -> None:
    table, config = AGREEING[case]
    assert problems(tmp_path, table, **config) == []


@pytest.mark.parametrize("value", ["4096", [8], None, 8.0, True, -8, {"a": 1}], ids=str)
def test_a_size_of_a_wrong_type(value: object, tmp_path: Path) -> None:
    assert problems(tmp_path, llama_tensors(), hidden_size=value) == [("error", "config-value")]


def test_the_layer_of_an_eagle_draft_has_a_name_for_a_number(tmp_path: Path) -> None:
    layer = {name.replace("model.layers.0", "midlayer"): entry for name, entry in llama_tensors(layers=1).items() if ".layers." in name}
    table = layer | {"norm.weight": ("BF16", (8,)), "fc.weight": ("BF16", (8, 24)), "lm_head.weight": ("BF16", (10, 8))}
    assert problems(tmp_path, table, num_hidden_layers=1, architectures=["LlamaForCausalLMEagle3"]) == []


def test_layers_that_predict_further_tokens_stored_for_themselves(tmp_path: Path) -> None:
    table = {name.replace("layers.0", "layers.61"): entry for name, entry in llama_tensors(layers=1).items()}
    assert problems(tmp_path, table, num_hidden_layers=61, num_nextn_predict_layers=1) == []


def test_amounts_without_missing_shards_are_partial(llama: Path, run: Callable[..., Outcome]) -> None:
    assert not mlload.inspect(llama).partial
    (llama / "model-00002-of-00002.safetensors").unlink()
    assert mlload.inspect(llama).partial
    assert "without those of the missing shards" in run("inspect", llama, env={"COLUMNS": "200"}).out


@pytest.mark.parametrize(("tied", "words"), [(True, "own head, though the config ties it"), (False, "own head")])
def test_a_head_stored_beside_a_tie(tied: bool, words: str, llama: Path, run: Callable[..., Outcome]) -> None:
    (llama / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"tie_word_embeddings": tied}))
    report = mlload.inspect(llama)
    assert (report.ties_stored_head, report.tie_word_embeddings, report.head) == (tied, False, "lm_head.weight")
    assert report.parameters == sum(amount.parameters for amount in report.by_dtype.values()) > 10 * 8 * 2
    assert f"{words}\n" in run("inspect", llama, env={"COLUMNS": "200"}).out
