"""The README does what it says: its commands run and print what is shown, its Python runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from test_promises import BENCH_KEYS, BENCH_ROW_KEYS

import mlload
from mlload.configs import table
from mlload.loader.bench.engines import ENGINES
from mlload.loader.formats import FORMATS
from mlload.loader.settings_file import read_settings
from mlload.loader.settings_mapping import build_settings

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
CONSOLE = [block for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) if block.startswith("$ mlload")]
COMMANDS = [line for block in CONSOLE for line in block.splitlines() if line.startswith("$ ")]


def shown_after(command: str) -> list[str]:
    """What the README prints below a command."""
    block = next(block for block in CONSOLE if command in block)
    lines = block.split(command + "\n", 1)[1].splitlines()
    return lines[: next((number for number, line in enumerate(lines) if line.startswith("$ ")), len(lines))]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_print_what_is_shown(run: Callable[..., Outcome], command: str) -> None:
    outcome = run(*shlex.split(command, comments=True)[2:])
    assert outcome.code == 0, outcome.err
    pattern = "\n".join(re.escape(line.rstrip()) for line in shown_after(command)).replace(r"\.\.\.", r"[\s\S]*?")
    assert re.match(pattern, "\n".join(line.rstrip() for line in outcome.out.splitlines()))


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
def test_settings_are_settings(text: str, tmp_path: Path) -> None:
    (tmp_path / "load.yaml").write_text(text)
    build_settings(read_settings(tmp_path / "load.yaml"))


def test_every_key_and_code_is_documented(run: Callable[..., Outcome]) -> None:
    for command in (
        ["inspect", "tiny", "--json"],
        ["inspect", "tiny", "--diff", "tiny", "--json"],
        ["load", "tiny", "--json"],
        ["load", "tiny", "--dry-run", "--json"],
        ["partial-forward", "tiny", "--text", "A", "--json"],
        ["probe-layers", "tiny", "--text", "A", "--json"],
        ["recommend-config", "tiny", "--json"],
    ):
        assert [key for key in run(*command).json if f"`{key}`" not in README] == []
    assert [key for key in (*BENCH_KEYS, *BENCH_ROW_KEYS) if f"`{key}`" not in README] == []
    codes = {error.exit_code for error in vars(mlload.MlloadError).values() if isinstance(error, type)}
    assert all(f"| {code} |" in README for code in codes | {each.exit_code for each in mlload.MlloadError.__subclasses__()})


def test_every_registered_name_and_ending_is_documented() -> None:
    assert all(f"`{name}`" in README for registry in (table("shapes"), ENGINES) for name in registry)
    assert all(f"`{name}`" in README for name in table("models"))
    assert all(f"`{suffix}`" in README or suffix in README for line in FORMATS.values() for suffix in line.suffixes)
