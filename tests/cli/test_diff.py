"""`mlload inspect --diff` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LLAMA_CONFIG, Outcome, llama_tensors, write_safetensors

from mlload.cli.folding import folded

Run = Callable[..., Outcome]


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """The small Llama with sixteen columns for eight, and twelve layers for two."""
    folder = tmp_path / "wide"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", llama_tensors(hidden=16, layers=12))
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"hidden_size": 16, "num_hidden_layers": 12}))
    return folder


def test_what_layers_share_is_folded(run: Run, llama: Path, wide: Path) -> None:
    lines = run("inspect", llama, "--diff", wide).out.splitlines()
    assert "model.layers.2 to 11.mlp.up_proj.weight" in lines
    assert "model.layers.0 to 1.mlp.up_proj.weight               [16, 8]  [16, 16]" in lines
    assert "only after (90)" in lines
    assert len(lines) == 32


def test_tensors_unfolds(run: Run, llama: Path, wide: Path) -> None:
    lines = run("inspect", llama, "--diff", wide, "--tensors").out.splitlines()
    assert sum(line.startswith("model.layers.") for line in lines) == 12 * 9
    assert "model.layers.11.mlp.up_proj.weight" in lines


@pytest.mark.parametrize("selection", [["*.q_proj.*"], ["--regex", r"q_proj\."]])
def test_a_pattern_chooses_what_is_compared(run: Run, llama: Path, wide: Path, selection: list[str]) -> None:
    answer = run("inspect", llama, "--diff", wide, *selection, "--json").json
    assert [change["name"] for change in answer["shapes"]] == [f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1)]
    assert (len(answer["only_after"]), answer["config"], answer["common_tensors"]) == (10, [], 2)


def test_a_pattern_that_chooses_nothing_says_so(run: Run, llama: Path, wide: Path) -> None:
    outcome = run("inspect", llama, "--diff", wide, "nothing.*", "--strict")
    assert (outcome.code, outcome.err) == (0, "no tensor of either was chosen\n")


def test_file_holds_on_both_sides(run: Run, llama: Path, wide: Path) -> None:
    for folder, shape in ((llama, (1,)), (wide, (2,))):
        write_safetensors(folder / "other.safetensors", {"w": ("F32", shape)})
    answer = run("inspect", llama, "--diff", wide, "--file", "other.safetensors", "--json").json
    assert answer["shapes"] == [{"name": "w", "before": [1], "after": [2]}]


@pytest.mark.parametrize("others", [["--diff", "tiny"], ["--tensors"], ["*"]])
def test_layers_with_what_has_none_is_refused(run: Run, llama: Path, others: list[str]) -> None:
    outcome = run("inspect", llama, "--layers", *others)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--layers does not go with" in outcome.err


def test_configs_that_are_nested_too_deeply_are_refused(run: Run, llama: Path, wide: Path) -> None:
    (llama / "config.json").write_text('{"a": ' * 101 + "1" + "}" * 101)
    outcome = run("inspect", llama, "--diff", wide, "--json")
    assert (outcome.code, outcome.err) == (4, "error: config.json: JSON is nested too deeply\n")
    (llama / "config.json").write_text('{"a": ' * 100 + "1" + "}" * 100)
    assert run("inspect", llama, "--diff", wide, "--json").code == 0


def test_dtypes_are_shown_as_they_are_called(run: Run, tmp_path: Path) -> None:
    for name, dtype in (("a", "BF16"), ("b", "F32")):
        write_safetensors(tmp_path / f"{name}.safetensors", {"w": (dtype, (2,))})
    lines = run("inspect", tmp_path / "a.safetensors", "--diff", tmp_path / "b.safetensors").out.splitlines()
    assert lines[-3].split() == ["w", "BF16", "F32"]


def test_long_values_are_shown_where_they_differ(run: Run, llama: Path, wide: Path) -> None:
    for folder, last in ((llama, "full"), (wide, "sliding")):
        (folder / "config.json").write_text(json.dumps({"layer_types": [*["sliding"] * 40, last]}))
    line = next(line for line in run("inspect", llama, "--diff", wide).out.splitlines() if line.startswith("layer_types"))
    assert '"full"]' in line
    assert '"sliding"]' in line


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["h.1.w", "h.10.w", "h.2.w", "h.0.w"], [("h.0 to 2.w", 3), ("h.10.w", 1)]),
        ([f"h.{n}.e.{m}.w" for n in range(3) for m in range(4)], [("h.0 to 2.e.0 to 3.w", 12)]),
        (["h.0.e.0.w", "h.0.e.1.w", "h.1.e.0.w"], [("h.0.e.0 to 1.w", 2), ("h.1.e.0.w", 1)]),
        (["w", "7", "h.007.w", "h.8" + "0" * 5000, "x1.y2"], None),
    ],
)
def test_names_fold_over_their_numbers(names: list[str], expected: list[tuple[str, int]] | None) -> None:
    assert [(name, total) for name, _, total in folded((name, None) for name in names)] == (expected or [(name, 1) for name in names])
