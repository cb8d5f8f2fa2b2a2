"""What a user may type for a model, and what may not be one."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlload
from mlload.configs import FOLDER, table
from mlload.loader.reference import HubReference, LocalReference, parse_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("meta-llama/Meta-Llama-3-8B", HubReference("meta-llama/Meta-Llama-3-8B")),
        ("org/name@refs/pr/1", HubReference("org/name", "refs/pr/1")),
        ("gpt2", HubReference("gpt2")),
        ("xlmr", HubReference("FacebookAI/xlm-roberta-base")),
        ("llama3@main", HubReference("meta-llama/Meta-Llama-3-8B", "main")),
        ("tiny", LocalReference(FOLDER / "tiny")),
        ("https://hub.example/org/name", HubReference("org/name", None, "hub.example")),
        ("https://hub.example/org/name/tree/v1.0", HubReference("org/name", "v1.0", "hub.example")),
        ("https://hub.example/org/name/blob/main/config.json", HubReference("org/name", "main", "hub.example", file="config.json")),
        (
            "https://hub.example/org/name/resolve/main/a/b/x.gguf?download=true",
            HubReference("org/name", "main", "hub.example", "a/b", "x.gguf"),
        ),
        ("https://hub.example/org/name/tree/main/sub/", HubReference("org/name", "main", "hub.example", "sub")),
        ("https://hub.example/org/name/tree/refs%2Fpr%2F1", HubReference("org/name", "refs/pr/1", "hub.example")),
        ("https://hub.example/org/name/tree/refs/pr/1/a%20b", HubReference("org/name", "refs/pr/1", "hub.example", "a b")),
    ],
)
def test_names(text: str, expected: object) -> None:
    assert parse_reference(text) == expected


def test_what_is_there_comes_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xlmr").mkdir()
    assert parse_reference("xlmr") == LocalReference(Path("xlmr"))


@pytest.mark.parametrize("text", ["./nothing", "/nothing", "~/nothing", "a/b/c", "../up", "org/name/"])
def test_paths_that_lead_nowhere(text: str) -> None:
    with pytest.raises(mlload.NotFoundError, match="no such file or folder"):
        parse_reference(text)


def test_a_part_of_a_repository_is_named_by_its_page() -> None:
    with pytest.raises(
        mlload.NotFoundError, match="org/name/sub; a folder or file of a hub's repository is named by the address of its page"
    ):
        parse_reference("org/name/sub")


@pytest.mark.parametrize(
    "text",
    ["", "a b", "org/na--me", "org/na..me", "-x/y", "org/name@", "org/name@a..b", "x" * 300, "a\0b", "https://hub.example/", "tiny@main"]
    + [f"https://hub.example/org/name/{page}" for page in ("tree/main/..", "blob/main/a/%2e%2e/b", "blob/main/%00", "tree/a..b")],
)
def test_what_can_be_no_reference(text: str) -> None:
    with pytest.raises(mlload.UsageError):
        parse_reference(text)


def test_every_registered_model_has_an_id_or_a_folder() -> None:
    for line in table("models").values():
        assert "hf_id" in line or (FOLDER / line["path"]).is_dir()
        assert line["summary"]


def test_a_registered_model_does_not_hide_itself() -> None:
    with pytest.raises(mlload.NotFoundError, match=r"no file 'config\.jsn'; did you mean 'config\.json'\?$"):
        mlload.inspect("tiny", file="config.jsn")


def test_a_folder_that_hides_a_registered_name_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(mlload.NotFoundError, match="hides the model that is registered as 'tiny'"):
        mlload.Checkpoint.open("tiny")
