"""The head start of `mlload inspect`: who gets one, and that nobody can tell but by the clock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome
from hub_server import HubServer, hub
from typer.main import get_command

from mlload.cli import head_start
from mlload.cli.app import app

Run = Callable[..., Outcome]
REPO = "org/llama"


@pytest.fixture
def server(llama: Path) -> Iterator[HubServer]:
    with hub() as server:
        server.add(REPO, llama)
        yield server


@pytest.fixture
def ask(server: HubServer, run: Run) -> Run:
    return lambda *arguments: run(*arguments, env={"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0"})


@pytest.mark.parametrize("flags", [[], ["--json"], ["--layers", "--strict", "--json"], ["--json", "--json"]], ids=" ".join)
def test_a_model_and_flags_get_one(flags: list[str]) -> None:
    begun = head_start.begin(["inspect", "tiny", *flags])
    assert begun is not None
    opened = begun.take("tiny", None)
    assert opened is not None
    assert len(opened().tensors) == 56


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["inspect"],
        ["load", "tiny"],
        ["inspect", "--json", "tiny"],
        ["inspect", "--", "tiny"],
        ["inspect", "tiny", "--help"],
        ["inspect", "tiny", "--jsn"],
        ["inspect", "tiny", "*.q_proj.*"],
        ["inspect", "tiny", "--diff", "other"],
        ["inspect", "tiny", "--file", "model.safetensors"],
        ["inspect", "./nowhere"],
    ],
    ids=" ".join,
)
def test_all_else_gets_none(arguments: list[str]) -> None:
    assert head_start.begin(arguments) is None


def test_it_is_of_one_checkpoint() -> None:
    begun = head_start.begin(["inspect", "tiny"])
    assert begun is not None
    assert begun.take("other", None) is None
    assert begun.take("tiny", "model.safetensors") is None


def test_its_flags_are_the_options_of_inspect_that_take_no_value() -> None:
    inspect = get_command(app).commands["inspect"]  # pyright: ignore[reportAttributeAccessIssue]  (a group)
    assert {name for each in inspect.params if getattr(each, "is_flag", False) for name in each.opts} == head_start.FLAGS


def test_the_hub_answers_without_typer(server: HubServer) -> None:
    lines = (
        "import sys",
        "from mlload.cli import head_start",
        f"begun = head_start.begin(['inspect', '{REPO}'])",
        f"sys.stdout.write(f\"{{len(begun.take('{REPO}', None)().tensors)}} {{'typer' in sys.modules}}\")",
    )
    env = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], env=env, check=True, capture_output=True, text=True)
    assert done.stdout == "21 False"


def test_nothing_is_asked_for_twice(ask: Run, server: HubServer) -> None:
    with_one, requests = ask("inspect", REPO, "--json"), server.requests
    server.reset_log()
    without = ask("inspect", "--json", REPO)
    assert with_one.out == without.out
    assert requests == server.requests == 9


@pytest.mark.parametrize("arguments", [["--help"], ["--layer"], ["--diff"]])
def test_help_and_wrong_usage_ask_nothing(ask: Run, server: HubServer, arguments: list[str]) -> None:
    assert ask("inspect", REPO, *arguments).code == (0 if arguments == ["--help"] else 2)
    assert server.requests == 0


@pytest.mark.parametrize("reference", ["org/nothing", "./nowhere", "org/a/b", "x@@y", ""])
def test_errors_are_the_same(ask: Run, reference: str) -> None:
    with_one, without = ask("inspect", reference, "--json"), ask("inspect", "--json", reference)
    assert (with_one.code, with_one.out, with_one.err) == (without.code, without.out, without.err)
    assert with_one.code in (2, 3)
