"""Every local case of the corpus asked for by `load`: a model or one line, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hostile.corpus import CASES

import mlload
from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig

_MOST_SECONDS = 90.0  # on a busy machine; a hang is what is looked for

# With other arguments `inspect` may refuse what it is asked, not what is in the folder.
LOCAL = [name for name, case in CASES.items() if case.reference == "{}" and case.args == ("--json",) and case.kind != "good"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", LOCAL)
def test_case(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    CASES[name].write(folder)
    started = time.monotonic()
    said, code = "", 0
    try:
        load(ModelLoadingConfig(folder, device="cpu"))
    except mlload.MlloadError as error:
        said, code = str(error), error.exit_code
    assert "\n" not in said
    assert len(said) < 2000
    assert CASES[name].code in (0, 7, code)
    assert time.monotonic() - started < _MOST_SECONDS
