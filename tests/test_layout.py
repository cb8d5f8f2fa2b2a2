"""The house: what imports what, what is packaged, what start-up costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("cli", "runners", "layers", "loader", "configs")
HEAVY = ("torch", "transformers", "accelerate", "numpy", "bitsandbytes", "hqq", "safetensors")


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if path.name != "train.py"]


def test_packages_in_pyproject_are_the_folders_that_hold_an_init() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
    assert sorted(listed) == sorted(["mlload", *(".".join(["mlload", *folder.parts]) for folder in folders)])


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parent.parts
    room = ROOMS.index(package[0])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            assert not target[0] or target[0] not in ROOMS or ROOMS.index(target[0]) >= room, f"line {node.lineno}: {'.'.join(target)}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(text.splitlines()) <= 400
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60] == []


def loaded_modules(code: str) -> set[str]:
    listing = f"import sys; {code}; sys.stdout.write(chr(10).join(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", listing], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_inspect_imports_nothing_heavy(llama: Path) -> None:
    modules = loaded_modules(f"import mlload; mlload.inspect({str(llama)!r})")
    assert modules.isdisjoint({*HEAVY, "typer", "rich", "huggingface_hub"})


def test_import_of_mlload_imports_none_of_its_rooms() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, mlload; sys.stdout.write(' '.join(m for m in sys.modules if m.startswith('mlload')))"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "mlload"


def test_command_does_not_import_torch(llama: Path) -> None:
    lines = (
        f"import sys; sys.argv = ['mlload', 'inspect', {str(llama)!r}]",
        "from mlload.cli import main",
        "try: main()",
        "except SystemExit: sys.stderr.write(' '.join(sys.modules))",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, text=True)
    assert "rich" in done.stderr
    assert {name.partition(".")[0] for name in done.stderr.split()}.isdisjoint({*HEAVY, "huggingface_hub"})


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    import shutil
    import zipfile

    # A copy, so that setuptools leaves no build folder in the repository.
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in tracked:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "src" / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--disable-pip-version-check", "-w", tmp_path, tmp_path / "src"]
    subprocess.run(command, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names} == {"mlload", "mlload-0.1.0.dist-info"}
    assert {name.split("/")[1] for name in names if name.startswith("mlload/")} == {*ROOMS, "__init__.py", "__main__.py", "py.typed"}
    assert sum(name.endswith(".safetensors") for name in names) == 3
