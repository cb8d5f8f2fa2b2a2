"""Every local case of the corpus asked for by `load`: a model or one line, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hostile.corpus import CASES

import mlload
from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig

_MOST_SECONDS = 20.0  # on a busy machine; a hang is what is looked for

# With other arguments `inspect` may refuse what it is asked, not what is in the folder.
LOCAL = [name for name, case in CASES.items() if case.reference == "{}" and case.args == ("--json",) and case.kind != "good"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", LOCAL)
def test_case(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    CASES[name].write(folder)
    started = time.monotonic()
    try:
        load(ModelLoadingConfig(folder, device="cpu"))
    except mlload.MlloadError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
        assert CASES[name].code in (0, 7, error.exit_code)
    else:
        assert CASES[name].code in (0, 7)
    assert time.monotonic() - started < _MOST_SECONDS
