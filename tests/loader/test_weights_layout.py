"""Which of a folder's files are its weights."""

from __future__ import annotations

import pytest

import mlload
from mlload.loader.layout import Layout, find_layout, layout_problems, likely_shards

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


def layout(*files: str, file: str | None = None) -> Layout:
    return find_layout(dict.fromkeys(files, 1), location="FOLDER", file=file)[0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([*SHARDS, INDEX, "config.json"], INDEX),
        (["model.safetensors", "pytorch_model.bin", "config.json"], "model.safetensors"),
        (["model.safetensors", *SHARDS, INDEX], "model.safetensors"),
        ([*SHARDS], "model-00001-of-00002.safetensors and 1 more"),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state_0.pth"], "pytorch_model.bin"),
        (["consolidated.00.pth", "consolidated.01.pth", "params.json"], "consolidated.00.pth and 1 more"),
        (["consolidated.safetensors", *SHARDS, INDEX], INDEX),
        (["llama-q4_k_m.gguf", "README.md"], "llama-q4_k_m.gguf"),
        (["llama-00001-of-00003.gguf", "llama-00002-of-00003.gguf", "llama-00003-of-00003.gguf"], "llama-00001-of-00003.gguf and 2 more"),
        (["adapter_model.safetensors", "adapter_config.json"], "adapter_model.safetensors"),
    ],
)
def test_weights_that_from_pretrained_would_load(files: list[str], expected: str) -> None:
    assert layout(*files).label == expected


@pytest.mark.parametrize(
    ("files", "severity"),
    [
        (["model.safetensors", "pytorch_model.bin"], "note"),
        (["model.safetensors", "consolidated.safetensors"], "note"),
        (["model.safetensors", "adapter_model.safetensors"], "note"),
        (["model.safetensors", "model.gguf"], "note"),
        (["model.safetensors", INDEX, *SHARDS], "warning"),
        (["model.safetensors", SHARDS[0]], "warning"),
    ],
)
def test_weights_beside_the_chosen_ones_are_a_note_unless_of_the_same_name(files: list[str], severity: str) -> None:
    chosen, beside = find_layout(dict.fromkeys(files, 1), location="FOLDER")
    assert [(problem.severity, problem.code) for problem in layout_problems(chosen, beside, {})] == [(severity, "several-layouts")]


@pytest.mark.parametrize(
    ("files", "weight_map"),
    [(["model.safetensors", INDEX], {}), ([INDEX, "a.safetensors", "b.safetensors"], {"x": "a.safetensors", "y": "b.safetensors"})],
)
def test_index_and_the_files_it_lists_are_one_layout(files: list[str], weight_map: dict[str, str]) -> None:
    chosen, beside = find_layout(dict.fromkeys(files, 1), location="FOLDER")
    assert list(layout_problems(chosen, beside, weight_map)) == []


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (["m-00001-of-00003.gguf"], ["m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]),
        (["m-0-of-2.safetensors"], ["m-1-of-2.safetensors"]),
        (["consolidated.00.pth", "consolidated.03.pth"], ["consolidated.01.pth", "consolidated.02.pth"]),
        (["m-000001-of-999999.gguf"], [f"m-{number:06d}-of-999999.gguf" for number in range(2, 7)] + [None]),
    ],
)
def test_what_a_series_lacks_is_named(present: list[str], missing: list[str | None]) -> None:
    problems = layout_problems(layout(*present), (), {})
    assert [problem.file for problem in problems if problem.code == "missing-shard"] == missing


@pytest.mark.parametrize("file", ["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"])
def test_any_part_of_a_split_gguf_file_means_all_of_them(file: str) -> None:
    files = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "n-00001-of-00002.gguf", "n.gguf"]
    assert layout(*files, file=file).shards == tuple(files[:2])


def test_unrelated_files_without_a_preferred_name_must_be_chosen_from() -> None:
    with pytest.raises(mlload.UsageError, match=r"2 sets of weights: a\.safetensors, b\.safetensors; choose one with --file"):
        layout("a.safetensors", "b.safetensors", "config.json")


def test_several_quantizations_must_be_chosen_from() -> None:
    files = ["llama-q4.gguf", "llama-q8.gguf"]
    with pytest.raises(mlload.UsageError, match="choose one with --file"):
        layout(*files)
    assert layout(*files, file="llama-q8.gguf").shards == ("llama-q8.gguf",)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["config.json"], "holds no weights"),
        (["tf_model.h5", "config.json"], "only in a format that mlload does not read"),
        (["unet/model.safetensors"], "only in subfolders such as 'unet'"),
    ],
)
def test_folders_without_weights_say_what_they_have(files: list[str], words: str) -> None:
    with pytest.raises(mlload.NotFoundError, match=words):
        layout(*files)


@pytest.mark.parametrize(("file", "error"), [("nothing.gguf", mlload.NotFoundError), ("config.json", mlload.UsageError)])
def test_a_chosen_file_must_be_there_and_be_weights(file: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        layout("model.safetensors", "config.json", file=file)


def test_shards_are_guessed_from_names_before_the_index_is_read() -> None:
    files = [*SHARDS, INDEX, "other-00001-of-00001.safetensors"]
    assert likely_shards(layout(*files), files) == SHARDS
